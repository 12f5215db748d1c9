(** The direct margin bound of randomised smoothing (docs/maths.md 5a), from the facts in Axioms. *)

From Coq Require Import Reals Lra.
From Certmix Require Import Axioms.
Open Scope R_scope.

Lemma Phi_monotone (a b : R) : a <= b -> Phi a <= Phi b.
Proof. intros [H | ->]; [left; apply Phi_increasing; exact H | right; reflexivity]. Qed.

Theorem direct_margin_bound (sigma r : R) (hy hi : Function01) (x x' : Point) :
  0 < sigma -> distance x x' <= r ->
  smoothed sigma hy x' - smoothed sigma hi x' >=
    Phi (quantile sigma hy x - r / sigma) - Phi (quantile sigma hi x + r / sigma).
Proof.
  intros Hs Hr. rewrite !quantile_of_smoothed by exact Hs.
  pose proof (quantile_is_lipschitz sigma hy x x' Hs) as Hy.
  pose proof (quantile_is_lipschitz sigma hi x x' Hs) as Hi.
  assert (Hd : distance x x' / sigma <= r / sigma).
  { apply Rmult_le_compat_r; [left; apply Rinv_0_lt_compat; exact Hs | exact Hr]. }
  pose proof (Rle_abs (- (quantile sigma hy x' - quantile sigma hy x))) as Hy'. rewrite Rabs_Ropp in Hy'.
  pose proof (Rle_abs (quantile sigma hi x' - quantile sigma hi x)) as Hi'.
  assert (H1 : Phi (quantile sigma hy x - r / sigma) <= Phi (quantile sigma hy x')) by (apply Phi_monotone; lra).
  assert (H2 : Phi (quantile sigma hi x') <= Phi (quantile sigma hi x + r / sigma)) by (apply Phi_monotone; lra).
  lra.
Qed.
