"""The page's requests as an HTTP API: its description (OpenAPI 3.1), and a page that shows it."""

from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel

from pipeline import __version__
from pipeline.pages.bodies import MOST_UPLOADS
from pipeline.pages.result import WEB

HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
RESULT = {
    "type": "object",
    "description": "Texts, notes and the ranking, the best image first.",
    "properties": {
        "reference": {"type": "string"},
        "relative_caption": {"type": "string"},
        "method": {"type": "string"},
        "captions": {"type": "array", "items": {"type": "string"}},
        "edited_captions": {"type": "array", "items": {"type": ["string", "null"]}},
        "notes": {"type": "array", "items": {"type": "string"}},
        "where": {"type": "array", "items": {"type": "string"}},
        "matching": {"type": "integer", "description": "images that meet all conditions"},
        "total": {"type": "integer", "description": "images of the gallery"},
        "vector": {"type": "string", "description": "the query, for a turn that goes on from it"},
        "images": {
            "type": "array",
            "description": "from `start` on, at most `top_k`",
            "items": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "hash": HASH,
                    "score": {"type": "number"},
                    "similarity": {"type": "number"},
                    "increment": {"type": "number"},
                    "copies": {"type": "array", "items": {"type": "string"}},
                    "members": {
                        "type": "array",
                        "items": {"type": "object"},
                        "description": "near-duplicates behind it, each as an image",
                    },
                },
            },
        },
    },
}


def description(
    question: type[BaseModel], texts: type[BaseModel], exported: type[BaseModel]
) -> dict[str, Any]:
    """Return the API's description; the types are what /query, /rank and /export are read as.

    The schemas of requests are the models' own, so that they cannot differ from what is taken.
    """
    asked = question.model_json_schema()
    file = {"type": "string", "format": "binary"}
    asked["properties"] |= {"image": {"type": "array", "items": file, "maxItems": MOST_UPLOADS}}
    errors = {
        "400": _answer("what is wrong, in a sentence", ERROR),
        "401": _answer("a token is needed", ERROR),
        "413": _answer("larger than the server takes", ERROR),
        "503": _answer("too much is asked at a time; Retry-After says when to come back", ERROR),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "seize: one's own images by image and text",
            "version": __version__,
            "description": "What `seize app FOLDER` answers. Where it listens beyond this machine, "
            "every request needs `Authorization: Bearer TOKEN`.",
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/healthz": {"get": _does("Say that the server answers, and how many images it has.")},
            "/settings": {"get": _does("Methods with their weights, limits, and the index.")},
            "/gallery": {
                "get": _does("A part of the gallery's images.")
                | {
                    "parameters": [
                        _query("start", {"type": "integer", "minimum": 0}, "place of the first"),
                        _query("name", {"type": "string"}, "what their paths contain"),
                        _query("hash", HASH, "one image alone"),
                    ]
                }
            },
            "/fields": {
                "get": _does(
                    "What conditions (`where`) can be about: each field with its name, kind, what "
                    "it is about, how many images have it, and least and most or common values."
                )
            },
            "/images/{hash}/{size}": {
                "get": {
                    "summary": "An image of the gallery as JPEG.",
                    "parameters": [
                        _path("hash", HASH),
                        _path("size", {"type": "string", "enum": ["small", "large"]}),
                    ],
                    "responses": {
                        "200": {"description": "the image", "content": {"image/jpeg": {}}},
                        "404": _answer("there is none (any more)", ERROR),
                    },
                }
            },
            "/query": {
                "post": {
                    "summary": "Search: a line of JSON for each step, then result or error.",
                    "requestBody": {"content": {"multipart/form-data": {"schema": asked}}},
                    "responses": {
                        "200": {
                            "description": 'lines: {"step": …}, then {"result": …} or {"error": …}',
                            "content": {
                                "application/x-ndjson": {
                                    "schema": {
                                        "type": "object",
                                        "properties": {
                                            "step": {"type": "string"},
                                            "ahead": {"type": "integer"},
                                            "result": RESULT,
                                            "error": {"type": "string"},
                                        },
                                    }
                                }
                            },
                        }
                    }
                    | errors,
                }
            },
            "/rank": {
                "post": {
                    "summary": "Rank again by texts that are there: neither captioner nor LLM.",
                    "requestBody": {
                        "content": {"application/json": {"schema": texts.model_json_schema()}}
                    },
                    "responses": {"200": _answer("the ranking", RESULT)} | errors,
                }
            },
            "/export": {
                "post": {
                    "summary": "The originals of images as one ZIP file, sent as they are read.",
                    "requestBody": {
                        "content": {"application/json": {"schema": exported.model_json_schema()}}
                    },
                    "responses": {
                        "200": {"description": "the file", "content": {"application/zip": {}}}
                    }
                    | errors,
                }
            },
        },
    }


def page(api: dict[str, Any]) -> str:
    """Return the description as a page that needs nothing else."""
    environment = Environment(
        loader=FileSystemLoader(WEB), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("api.html").render(api=api)


def _does(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": _answer("JSON", {"type": "object"})}}


def _answer(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def _query(name: str, schema: dict[str, Any], what: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": what}


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}
