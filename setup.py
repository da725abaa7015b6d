"""What pyproject.toml cannot say: two folders beside the package travel with it in a wheel.

They lie below ``pipeline/shipped`` then; ``pipeline.installation.SHIPPED`` finds them either way.
"""

from setuptools import find_packages, setup

SHIPPED = {
    "pipeline.shipped.prompts": "prompts",
    "pipeline.shipped.data.models": "data/models",
}

setup(
    packages=[*find_packages(include=["pipeline", "pipeline.*", "seize"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={
        "pipeline": [
            "py.typed",
            "presets/*.yaml",
            "stages/rates.yaml",
            "study/published.yaml",
            "study/recipes/*.yaml",
            "pages/report/report.*",
            "pages/web/*",
        ],
        "seize": ["py.typed"],
        **{package: ["**/*"] for package in SHIPPED},
    },
)
