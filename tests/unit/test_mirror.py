"""The folder `tests/unit` mirrors `pipeline/`: a module has a test file of its name, or a reason.

`pipeline/store/files.py` is tested in `tests/unit/store/test_files.py`, the package
`pipeline/config` in `tests/unit/config/test_config.py`.
"""

import ast
from pathlib import Path

import pipeline
from tests.conftest import PROJECT

PACKAGE = Path(pipeline.__file__).parent
UNIT = Path(__file__).parent

ELSEWHERE = {
    # As a program or a whole run, because that is what there is to see of them.
    "__init__": "integration/test_folder.py",
    "__main__": "integration/test_errors.py",
    "cli/audit": "integration/test_audit.py",
    "cli/batches": "integration/test_alone.py",
    "cli/ending": "integration/test_errors.py",
    "cli/files": "integration/test_cli.py",
    "cli/logs": "integration/test_cli.py",
    "cli/main": "integration/test_cli.py",
    "cli/numbers": "integration/test_cli.py",
    "cli/options": "integration/test_cli.py",
    "cli/overrides": "integration/test_cli.py",
    "cli/own_options": "integration/test_folder.py",
    "cli/own": "integration/test_folder.py",
    "cli/printing": "integration/test_cli.py",
    "cli/setup": "integration/test_cli.py",
    "cli/pairs": "unit/study/test_published.py",
    "cli/serving": "integration/test_synthesize.py",
    "cli/stages": "integration/test_cli.py",
    "cli/turns": "integration/test_turns.py",
    "cli/train": "integration/test_train.py",
    "cli/synthesize": "integration/test_synthesize.py",
    "cli/triplets": "unit/datasets/test_exchange.py",
    "datasets/checking": "unit/datasets/test_datasets.py",
    "datasets/facap": "unit/datasets/test_fine_fashioniq.py",
    "datasets/fashion200k": "unit/datasets/test_fine_fashioniq.py",
    "datasets/fine_cirr": "unit/datasets/test_fine_fashioniq.py",
    "datasets/paths": "unit/datasets/test_datasets.py",
    "demo/layouts/__init__": "integration/test_layouts.py",
    "demo/layouts/_pairs": "integration/test_layouts.py",
    "datasets/shoes": "unit/datasets/test_fine_fashioniq.py",
    "demo/layouts/enhfashioniq": "integration/test_layouts.py",
    "demo/layouts/facap": "integration/test_layouts.py",
    "demo/layouts/fashion200k": "integration/test_layouts.py",
    "demo/layouts/fine_cirr": "integration/test_layouts.py",
    "demo/layouts/fine_fashioniq": "integration/test_layouts.py",
    "demo/layouts/shoes": "integration/test_layouts.py",
    "demo/layouts/genecis": "integration/test_layouts.py",
    "demo/layouts/icir": "integration/test_layouts.py",
    "demo/layouts/pinpoint": "integration/test_layouts.py",
    "doctor/checks": "integration/test_doctor.py",
    "doctor/findings": "integration/test_doctor.py",
    "doctor/machine": "integration/test_doctor.py",
    "errors": "integration/test_errors.py",
    "models/imported": "integration/test_released.py",
    "models/prompts/files": "unit/models/prompts/test_edit.py",
    "models/serving/connection": "unit/models/serving/test_chat.py",
    "stages/editor": "unit/stages/test_edit.py",
    "models/serving/keeper": "integration/test_serving.py",
    "models/serving/vllm": "integration/test_serving.py",
    "models/vetting": "integration/test_hostile_weights.py",
    "own/catalogue": "integration/test_synthesize.py",
    "own/settled": "integration/test_folder.py",
    "own/checks": "integration/test_folder.py",
    "own/describing": "integration/test_folder.py",
    "own/dialogue": "integration/test_turns.py",
    "own/folder": "integration/test_folder.py",
    "own/gallery": "integration/test_folder.py",
    "own/listing": "integration/test_folder.py",
    "own/loaded": "integration/test_folder.py",
    "own/query": "integration/test_folder.py",
    "own/ranking": "integration/test_filters.py",
    "own/result": "integration/test_folder.py",
    "own/running": "integration/test_running.py",
    "own/shown": "integration/test_folder.py",
    "pages/answers": "integration/test_app.py",
    "pages/app": "integration/test_app.py",
    "pages/images": "integration/test_app.py",
    "pages/owner": "integration/test_running.py",
    "pages/openapi": "integration/test_api.py",
    "pages/report/__init__": "integration/test_report.py",
    "pages/report/charts": "integration/test_report.py",
    "pages/report/plans": "integration/test_report.py",
    "pages/report/queries": "integration/test_report.py",
    "pages/result": "integration/test_folder.py",
    "pages/tokens": "integration/test_page_attacks.py",
    "processes": "integration/test_processes.py",
    "profile": "integration/test_plan.py",
    "recipes/base": "integration/test_train.py",
    "recipes/__init__": "integration/test_train.py",
    "recipes/images": "unit/recipes/test_searle.py",
    "recipes/validation": "integration/test_train.py",
    "retrieval/clues/inversion": "integration/test_inversion.py",
    "retrieval/clues/joint": "integration/test_joint.py",
    "retrieval/methods/joint": "integration/test_joint.py",
    "retrieval/clues/retrievals": "integration/test_decompose.py",
    "retrieval/methods/planned": "integration/test_decompose.py",
    "retrieval/files": "integration/test_rank.py",
    "retrieval/methods/inversion": "integration/test_inversion.py",
    "stages/caption": "integration/test_pipeline.py",
    "stages/checks": "integration/test_errors.py",
    "stages/decompose": "integration/test_decompose.py",
    "stages/embed": "integration/test_pipeline.py",
    "stages/embeddings": "integration/test_pipeline.py",
    "stages/rates": "integration/test_plan.py",
    "stages/work": "integration/test_plan.py",
    "stages/estimates": "integration/test_plan.py",
    "stages/evaluate": "integration/test_pipeline.py",
    "stages/everything": "integration/test_pipeline.py",
    "stages/export": "integration/test_released.py",
    "stages/inputs": "integration/test_pipeline.py",
    "stages/plan": "integration/test_plan.py",
    "stages/planning": "integration/test_synthesize.py",
    "stages/rewriting": "integration/test_synthesize.py",
    "stages/synthesize": "integration/test_synthesize.py",
    "stages/released": "integration/test_released.py",
    "stages/search": "integration/test_pipeline.py",
    "stages/writing": "unit/stages/test_asking.py",
    "stages/submit": "integration/test_pipeline.py",
    "stages/trial": "integration/test_cli.py",
    "stages/verify": "integration/test_verify.py",
    "study/audit/__init__": "integration/test_audit.py",
    "study/audit/cuts": "integration/test_audit.py",
    "study/audit/faults": "integration/test_audit.py",
    "study/audit/shortcuts": "integration/test_audit.py",
    "study/benchmark": "integration/test_face.py",
    "study/turns": "integration/test_turns.py",
    "study/compare": "integration/test_compare.py",
    "study/reproduce/__init__": "integration/test_reproduce.py",
    "study/reproduce/page": "integration/test_reproduce.py",
    "study/reproduce/recipes": "integration/test_reproduce.py",
    "study/frames": "integration/test_frames.py",
    # Beside the others of its family, which share their cases.
    "config/devices": "unit/models/test_identity.py",
    "config/loading": "unit/config/test_config.py",
    "config/base": "unit/config/test_config.py",
    "config/models": "unit/config/test_config.py",
    "config/sections": "unit/config/test_config.py",
    "config/whole": "unit/config/test_config.py",
    "datasets/base": "unit/datasets/test_datasets.py",
    "datasets/circo": "unit/datasets/test_datasets.py",
    "datasets/cirr": "unit/datasets/test_datasets.py",
    "datasets/codraw": "unit/datasets/test_multi_turn.py",
    "datasets/iclevr": "unit/datasets/test_multi_turn.py",
    "datasets/mtfashioniq": "unit/datasets/test_multi_turn.py",
    "datasets/fashioniq": "unit/datasets/test_datasets.py",
    "datasets/reading": "unit/datasets/test_datasets.py",
    "installation": "unit/test_supply.py",
    "models/captioners/__init__": "unit/models/captioners/test_blip2.py",
    "models/captioners/base": "unit/models/captioners/test_blip2.py",
    "models/captioners/served": "unit/models/llms/test_served.py",
    "models/composers/__init__": "unit/models/composers/test_base.py",
    "models/composers/checkpoints": "unit/models/composers/test_training.py",
    "models/composers/settings": "unit/models/composers/test_training.py",
    "models/composers/combiner": "unit/models/composers/test_base.py",
    "models/composers/entities": "unit/models/composers/test_base.py",
    "models/composers/gated": "unit/models/composers/test_base.py",
    "models/composers/multi_vector": "unit/models/composers/test_base.py",
    "models/composers/sum": "unit/models/composers/test_base.py",
    "models/composers/two_hop": "unit/models/composers/test_base.py",
    "models/embedding": "integration/test_extending.py",
    "models/encoders/__init__": "unit/models/test_pixels.py",
    "models/encoders/_selfcheck": "unit/models/encoders/test_served.py",
    "models/encoders/base": "unit/models/encoders/test_open_clip.py",
    "models/inversion/checkpoints": "unit/models/inversion/test_inversion.py",
    "models/inversion/concepts": "unit/recipes/test_searle.py",
    "models/inversion/networks": "unit/models/inversion/test_inversion.py",
    "models/inversion/prompts": "unit/models/inversion/test_inversion.py",
    "models/llms/__init__": "unit/stages/test_edit.py",
    "models/llms/base": "unit/models/llms/test_transformers.py",
    "models/prompts/verify": "unit/models/prompts/test_edit.py",
    "models/prompts/decompose": "unit/retrieval/test_plans.py",
    "models/quiet": "unit/models/captioners/test_blip2.py",
    "models/sampling": "unit/models/llms/test_transformers.py",
    "models/serving/endpoints": "unit/models/encoders/test_served.py",
    "models/training/files": "unit/models/training/test_loop.py",
    "models/training/settings": "unit/models/training/test_loop.py",
    "models/training/task": "unit/models/training/test_loop.py",
    "models/training/several": "unit/models/training/test_loop.py",
    "models/template": "unit/models/llms/test_transformers.py",
    "models/verifiers/__init__": "unit/retrieval/test_fusion.py",
    "models/verifiers/base": "unit/models/verifiers/test_transformers.py",
    "models/verifiers/served": "integration/test_verify.py",
    "models/weights": "unit/models/test_loading.py",
    "records": "unit/store/test_schema.py",
    "retrieval/clues/captions": "unit/retrieval/methods/test_methods.py",
    "retrieval/clues/composer": "integration/test_composer.py",
    "retrieval/methods/composer": "integration/test_composer.py",
    "stages/composing": "integration/test_composer.py",
    "recipes/composer": "integration/test_composer.py",
    "demo/layouts/codraw": "unit/datasets/test_multi_turn.py",
    "demo/layouts/iclevr": "unit/datasets/test_multi_turn.py",
    "demo/layouts/mtfashioniq": "unit/datasets/test_multi_turn.py",
    "models/encoders/composer": "integration/test_composer.py",
    "models/encoders/_composer": "integration/test_composer.py",
    "demo/composer": "integration/test_composer.py",
    "retrieval/clues/edits": "unit/retrieval/methods/test_methods.py",
    "retrieval/clues/reference": "unit/retrieval/methods/test_methods.py",
    "retrieval/clues/relative": "unit/retrieval/methods/test_methods.py",
    "retrieval/clues/roles": "unit/retrieval/methods/test_methods.py",
    "retrieval/indexes/base": "unit/retrieval/indexes/test_indexes.py",
    "retrieval/indexes/certified": "unit/retrieval/indexes/test_indexes.py",
    "retrieval/indexes/faiss": "unit/retrieval/indexes/test_indexes.py",
    "retrieval/indexes/flat": "unit/retrieval/indexes/test_indexes.py",
    "retrieval/indexes/layout": "unit/retrieval/indexes/test_clusters.py",
    "retrieval/indexes/milvus": "unit/retrieval/indexes/test_indexes.py",
    "retrieval/methods/baselines": "unit/retrieval/methods/test_methods.py",
    "retrieval/methods/ensemble": "unit/retrieval/methods/test_methods.py",
    "retrieval/methods/increment": "unit/retrieval/methods/test_methods.py",
    "retrieval/methods/ldre": "unit/retrieval/methods/test_methods.py",
    "retrieval/methods/pdv": "unit/retrieval/methods/test_methods.py",
    "retrieval/methods/roles": "unit/retrieval/methods/test_methods.py",
    "retrieval/methods/sdr": "unit/retrieval/methods/test_methods.py",
    "retrieval/methods/sum": "unit/retrieval/methods/test_methods.py",
    "retrieval/ranking": "unit/retrieval/methods/test_methods.py",
    "retrieval/sections": "unit/retrieval/methods/test_base.py",
    "retrieval/searcher": "unit/retrieval/indexes/test_indexes.py",
    "stages/base": "unit/stages/test_stages.py",
    # What made the demo's models is run when they are made again, not by the tests.
    "demo/embedder": "integration/test_joint.py",
    "demo/evaluate": "",
    "demo/levers": "",
    "demo/phi": "",
    "demo/roles": "",
    "demo/world/edits": "unit/demo/world/test_world.py",
    "demo/world/pictures": "unit/demo/world/test_world.py",
    "demo/world/scenes": "unit/demo/world/test_world.py",
    "demo/train": "unit/demo/world/test_world.py",
    "demo/synthesizer": "unit/demo/test_differences.py",
    "demo/training": "unit/demo/world/test_world.py",
    "demo/verifier": "",
    # Every test that needs a dataset builds the small world with it.
    "demo/build": "unit/demo/world/test_world.py",
    "demo/run": "integration/test_cli.py",
}
"""Modules without a test file of their name, and the file that tests them; "" for none.

A new module gets a test file. This list is to shrink.
"""

PROJECT_WIDE = {"test_documents", "test_layers", "test_mirror", "test_supply"}
"""Tests of what lies beside the package: documents, layout, dependencies."""


def place_of(module: str) -> str:
    """Return where a module is tested: `store/files` in `store/test_files`, `_x` with `x`."""
    *folders, name = module.split("/")
    if name == "__init__" and folders:
        name = folders[-1]
    return "/".join([*folders, f"test_{name.strip('_')}"])


def has_code(file: Path) -> bool:
    """Return whether a file defines a function or a class: a mere docstring needs no test."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) for node in ast.walk(ast.parse(file.read_bytes())))


def below(folder: Path, pattern: str) -> dict[str, Path]:
    """Return the files of a folder by their path without the suffix."""
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for file in sorted(folder.rglob(pattern))
    }


MODULES = below(PACKAGE, "*.py")
TESTS = below(UNIT, "test_*.py")


def test_every_module_has_a_test_file_or_is_listed() -> None:
    untested = {
        module
        for module, file in MODULES.items()
        if has_code(file) and place_of(module) not in TESTS
    }
    assert untested - ELSEWHERE.keys() == set(), "write tests/unit/…/test_NAME.py"
    assert ELSEWHERE.keys() - untested == set(), "has one now, or is gone: take it off the list"


def test_what_is_listed_is_tested_where_the_list_says() -> None:
    wrong = [
        f"{module}: {place}"
        for module, place in ELSEWHERE.items()
        if place and not (PROJECT / "tests" / place).is_file()
    ]
    assert wrong == []


def test_every_test_file_mirrors_a_module() -> None:
    mirrored = {place_of(module) for module in MODULES}
    assert TESTS.keys() - mirrored - PROJECT_WIDE == set(), "no module has this place and name"
    assert TESTS.keys() >= PROJECT_WIDE


def test_modules_and_packages_have_their_places() -> None:
    assert place_of("store/files") == "store/test_files"
    assert place_of("models/llms/__init__") == "models/llms/test_llms"
    assert place_of("models/captioners/_blip2") == "models/captioners/test_blip2"
    assert place_of("__init__") == "test_init"
