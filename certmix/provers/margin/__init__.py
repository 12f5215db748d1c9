"""Lemma 3.2: oracles that bound margins, the search for the largest radius, its evidence."""
