"""Rules for Lemma 3.2: from bounds of logit differences to the margin of the mix."""
