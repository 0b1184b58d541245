"""A detector behind HTTP: files come in, scores go out. It imports neither torch nor MLflow.

    uploads.py    what a client sent -> images, or the reason why not; the limits
    scorer.py     images of many requests -> scores, with all cores busy
    pages.py      the description of the interface, as OpenAPI and as a page
    app.py        the addresses, and what each answers
    listening.py  the socket, the signals, the end

Only this package imports starlette and uvicorn.
"""

MOST_SENT_PIXELS = 50_000_000
"""The most pixels of an image that a client sends, unless the operator says otherwise."""
