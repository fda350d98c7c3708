"""What answers over HTTP: the routes, and what every request passes on its way to them."""
