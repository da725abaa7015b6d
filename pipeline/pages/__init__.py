"""Pages for people: the app, a query's result, the report."""
