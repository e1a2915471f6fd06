"""Who did what to which patient's data, from where, and whether they could."""
