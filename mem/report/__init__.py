"""The report: tables, figures and an HTML page from a study's scores."""
