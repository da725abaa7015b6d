"""What metrics of servers say."""

from pipeline.models.serving.responses import prefix_cache


def test_a_vllms_prefix_cache_is_counted_over_its_engines() -> None:
    metrics = (
        "# TYPE vllm:prefix_cache_queries counter\n"
        'vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1200.0\n'
        'vllm:prefix_cache_queries_total{engine="1",model_name="m"} 800.0\n'
        'vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.7e+09\n'
        'vllm:prefix_cache_hits_total{engine="0",model_name="m"} 1e3\n'
        'vllm:prefix_cache_hits_total{engine="1",model_name="m"} 500.0\n'
        'vllm:external_prefix_cache_hits_total{engine="1",model_name="m"} 7.0\n'
    )
    assert prefix_cache(metrics) == (2000, 1500)
    assert prefix_cache("") is None
    assert prefix_cache(metrics.replace("1200.0", "inf")) is None
    assert prefix_cache(metrics.replace("1200.0", "many")) is None
