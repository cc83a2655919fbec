"""Makes pair stores from cube stores."""
