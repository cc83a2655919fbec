"""Contact sheets, reports and charts of a store."""
