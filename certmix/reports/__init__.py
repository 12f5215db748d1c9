"""Tables, the page, figures: they read runs and prove nothing."""
