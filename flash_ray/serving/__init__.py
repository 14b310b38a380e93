"""Ray Serve: models drawn, edited with and scored over HTTP, and the gallery."""
