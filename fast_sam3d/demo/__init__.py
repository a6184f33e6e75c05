"""The demo: a loaded model, a queue of one, and a page in the browser. `engine.py` works without the page."""
