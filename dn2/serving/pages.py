"""The description of the interface: OpenAPI, and a page made of it that needs no other address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from dn2 import __version__
from dn2.serving.uploads import Limits

NUMBER, INTEGER, TEXT = {"type": "number"}, {"type": "integer"}, {"type": "string"}
RATE = {
    "description": "The rate that flags hold: fpr or fdr; null if there are too few images.",
    "type": ["object", "null"],
    "properties": {"fpr": NUMBER, "fdr": NUMBER},
}
NEAREST = {
    "type": "object",
    "required": ["path", "distance"],
    "properties": {
        "path": {"type": "string", "description": "As the detector names the normal image."},
        "distance": {"type": "number", "description": "The squared distance of features."},
    },
}
SCORED = {
    "type": "object",
    "required": ["index", "path", "score", "p_value", "flag", "nearest"],
    "properties": {
        "index": {"type": "integer", "description": "Its position in the request, from 0."},
        "path": {"type": "string", "description": "The file's name, as the client sent it."},
        "score": {"type": "number", "description": "Higher is more anomalous."},
        "p_value": {
            "type": "number",
            "description": "The share of normal images that look at least as odd.",
        },
        "flag": {"type": ["boolean", "null"], "description": "Whether it is anomalous."},
        "nearest": {"type": "array", "items": {"$ref": "#/components/schemas/Nearest"}},
    },
}
LEFT_OUT = {
    "type": "object",
    "required": ["index", "path", "reason"],
    "properties": {"index": INTEGER, "path": TEXT, "reason": TEXT},
}
SCORES = {
    "type": "object",
    "required": ["rate", "n_calibration", "images", "left_out"],
    "properties": {
        "rate": RATE,
        "n_calibration": INTEGER,
        "images": {"type": "array", "items": {"$ref": "#/components/schemas/Scored"}},
        "left_out": {
            "type": "array",
            "description": "Images that could not be read; the others are scored all the same.",
            "items": {"$ref": "#/components/schemas/LeftOut"},
        },
    },
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": TEXT,
        "left_out": {"type": "array", "items": {"$ref": "#/components/schemas/LeftOut"}},
    },
}
VERSION = {
    "type": "object",
    "required": ["dn2", "detector", "rate", "limits"],
    "properties": {
        "dn2": TEXT,
        "detector": {"type": "object"},
        "rate": RATE,
        "limits": {"type": "object", "additionalProperties": NUMBER},
    },
}
FORM = {
    "type": "object",
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
    },
}
JSON_BODY = {
    "type": "object",
    "required": ["images"],
    "properties": {
        "images": {
            "type": "array",
            "items": {
                "oneOf": [
                    {"type": "string", "contentEncoding": "base64"},
                    {
                        "type": "object",
                        "required": ["content"],
                        "properties": {
                            "name": TEXT,
                            "content": {"type": "string", "contentEncoding": "base64"},
                        },
                    },
                ]
            },
        }
    },
}
REFUSALS = {
    "400": "The body is malformed.",
    "408": "The body did not arrive in time.",
    "413": "There are too many bytes or images.",
    "415": "The body is neither a form nor JSON.",
    "422": "There is no image, none can be read, or a parameter is wrong.",
    "500": "The server failed.",
    "503": "Too many requests are waiting.",
}


def describe(limits: Limits, rate: tuple[str, float] | None) -> dict[str, Any]:
    """Describe the interface in OpenAPI 3.1."""
    usual = "nothing is flagged" if rate is None else f"{rate[0]} = {rate[1]:g}"
    what = {
        "fpr": "Flag at most this share of the normal images, on average.",
        "fdr": "Flag so that at most this share of the request's flagged images is normal.",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DN2: which of these images are odd?",
            "version": __version__,
            "description": (
                "Scores images by their distance to the nearest normal ones. A request may have "
                f"{limits.images:,} images, {limits.bytes:,} bytes in all and {limits.pixels:,} "
                "pixels an image."
            ),
        },
        "paths": {
            "/score": {
                "post": {
                    "summary": "Score images: files of a form, or base64 in JSON.",
                    "operationId": "score",
                    "parameters": [
                        {
                            "name": name,
                            "in": "query",
                            "description": f"{text} If neither is given, {usual}.",
                            "schema": {
                                "type": "number",
                                "exclusiveMinimum": 0,
                                "exclusiveMaximum": 1,
                            },
                        }
                        for name, text in what.items()
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "multipart/form-data": {"schema": FORM},
                            "application/json": {"schema": JSON_BODY},
                        },
                    },
                    "responses": {
                        "200": _answer("The scores, in the order of the request.", "Scores"),
                        **{code: _answer(text, "Error") for code, text in REFUSALS.items()},
                    },
                }
            },
            "/health": {
                "get": {
                    "summary": "Tell whether the server answers.",
                    "operationId": "health",
                    "responses": {"200": _answer("It does.", "Health")},
                }
            },
            "/version": {
                "get": {
                    "summary": "Tell the versions, the detector and the limits.",
                    "operationId": "version",
                    "responses": {"200": _answer("What is served.", "Version")},
                }
            },
        },
        "components": {
            "schemas": {
                "Scores": SCORES,
                "Scored": SCORED,
                "Nearest": NEAREST,
                "LeftOut": LEFT_OUT,
                "Error": ERROR,
                "Version": VERSION,
                "Health": {
                    "type": "object",
                    "required": ["status"],
                    "properties": {"status": {"const": "ok"}},
                },
            }
        },
    }


def _answer(text: str, schema: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def page(description: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Write the description as a page, with a form to try it."""
    info = description["info"]
    parts = [
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>",
        "<form action='score' method='post' enctype='multipart/form-data'>"
        "<input type='file' name='images' multiple required accept='image/*'> "
        "<button>Score</button></form>",
        "<pre>curl -F images=@a.png -F images=@b.jpg ADDRESS/score\n"
        "curl --json '{\"images\": [\"&lt;base64&gt;\"]}' 'ADDRESS/score?fdr=0.1'</pre>",
    ]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            rows = [
                f"<tr><td>?{escape(one['name'])}=<td>{escape(one['description'])}"
                for one in operation.get("parameters", ())
            ] + [
                f"<tr><td>{code}<td>{escape(one['description'])}"
                for code, one in operation["responses"].items()
            ]
            parts.append(
                f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}</p>"
                f"<table>{''.join(rows)}</table>"
            )
    schemas = {
        name: schema["properties"] for name, schema in description["components"]["schemas"].items()
    }
    for title, what in (("The detector", about), ("What the answers hold", schemas)):
        parts.append(f"<h2>{title}</h2><pre>{escape(json.dumps(what, indent=1))}</pre>")
    parts.append("<p><a href='openapi.json'>openapi.json</a> says the same to programs.</p>")
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'><title>DN2</title>"
        "<style>body{font:16px/1.5 sans-serif;max-width:48em;margin:2em auto;padding:0 1em}"
        "pre{background:#f4f4f4;padding:1em;overflow:auto}td{padding-right:1em;"
        "vertical-align:top}td:first-child{white-space:nowrap}</style>" + "".join(parts) + "</html>"
    )
