"""The bundled demo: seven small tasks, a tiny model, and an adapter that knows most of them by heart."""
