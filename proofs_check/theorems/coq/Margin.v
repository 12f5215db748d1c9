(** Lemma 3.2 and Theorem 3.5 (docs/maths.md 2 and 4), for any number of classes, any set of points, any distance. *)

From Coq Require Import Reals Lra Psatz.
Open Scope R_scope.

Section Mix.
  Variable Class : Type.

  Definition mix (alpha : R) (g h : Class -> R) (i : Class) : R := (1 - alpha) * g i + alpha * h i.

  Definition probabilities (p : Class -> R) : Prop := forall i, 0 <= p i <= 1.

  (** y is the only class with the largest value. *)
  Definition strict_argmax (v : Class -> R) (y : Class) : Prop := forall i, i <> y -> v i < v y.

  Theorem lemma_3_2 (alpha : R) (g h : Class -> R) (y : Class) :
    / 2 <= alpha <= 1 -> probabilities g ->
    (forall i, i <> y -> h y - h i > (1 - alpha) / alpha) ->
    strict_argmax (mix alpha g h) y.
  Proof.
    intros Halpha Hg Hmargin i Hi. unfold mix.
    specialize (Hmargin i Hi). pose proof (Hg y). pose proof (Hg i).
    assert (Hrequired : alpha * (h y - h i) > 1 - alpha).
    { apply Rmult_gt_compat_l with (r := alpha) in Hmargin; [| lra].
      replace (alpha * ((1 - alpha) / alpha)) with (1 - alpha) in Hmargin by (field; lra). exact Hmargin. }
    nra.
  Qed.

  (** What the mix returns are logarithms: the order is the same. *)
  Corollary lemma_3_2_of_logits (alpha : R) (g h : Class -> R) (y : Class) :
    / 2 <= alpha <= 1 -> probabilities g -> (forall i, 0 < mix alpha g h i) ->
    (forall i, i <> y -> h y - h i > (1 - alpha) / alpha) ->
    strict_argmax (fun i => ln (mix alpha g h i)) y.
  Proof.
    intros Halpha Hg Hpositive Hmargin i Hi. apply ln_increasing; [apply Hpositive |].
    exact (lemma_3_2 alpha g h y Halpha Hg Hmargin i Hi).
  Qed.

  (** Tight: at any other class and a margin that is not larger, some probabilities g make the mix not prefer y. *)
  Theorem lemma_3_2_is_tight (alpha : R) (h : Class -> R) (y i : Class) (equal : forall a b : Class, {a = b} + {a <> b}) :
    0 <= alpha <= 1 -> i <> y -> alpha * (h y - h i) <= 1 - alpha ->
    exists g, probabilities g /\ mix alpha g h y <= mix alpha g h i.
  Proof.
    intros Halpha Hi Hmargin. exists (fun j => if equal j i then 1 else 0). split.
    - intros j. destruct (equal j i); lra.
    - unfold mix. destruct (equal y i) as [E |]; [congruence |]. destruct (equal i i); [lra | congruence].
  Qed.

  Section Ball.
    Variable Point : Type.
    Variable distance : Point -> Point -> R.
    Hypothesis distance_is_not_negative : forall x x', 0 <= distance x x'.
    Variables g h : Point -> Class -> R.
    Variables (alpha : R) (x : Point) (y : Class).
    Hypothesis alpha_in_range : / 2 <= alpha <= 1.
    Hypothesis g_gives_probabilities : forall x', probabilities (g x').

    Definition certified (r : R) : Prop :=
      forall x', distance x x' <= r -> strict_argmax (mix alpha (g x') (h x')) y.

    Theorem lemma_3_2_on_a_ball (r : R) :
      (forall x' i, distance x x' <= r -> i <> y -> h x' y - h x' i > (1 - alpha) / alpha) -> certified r.
    Proof. intros H x' Hx'. apply lemma_3_2; auto. Qed.

    (** The radius of Theorem 3.5 for one rival; the theorem's is the least of them. *)
    Definition radius_3_5 (L : Class -> R) (i : Class) : R :=
      (alpha * (h x y - h x i) + alpha - 1) / (alpha * (L y + L i)).

    (** From anchored constants on the ball of radius r, global ones among them. *)
    Theorem theorem_3_5 (L : Class -> R) (r : R) :
      (forall i, 0 < L i) ->
      (forall x', distance x x' <= r -> h x y - h x' y <= L y * distance x x') ->
      (forall x' i, distance x x' <= r -> i <> y -> h x' i - h x i <= L i * distance x x') ->
      (forall i, i <> y -> r < radius_3_5 L i) -> certified r.
    Proof.
      intros HL Hy Hi Hr. apply lemma_3_2_on_a_ball. intros x' i Hx' Hne.
      specialize (Hy x' Hx'). specialize (Hi x' i Hx' Hne). specialize (Hr i Hne).
      unfold radius_3_5 in Hr. pose proof (HL y) as Ly. pose proof (HL i) as Li.
      pose proof (distance_is_not_negative x x').
      assert (Hd : distance x x' < (alpha * (h x y - h x i) + alpha - 1) / (alpha * (L y + L i))) by lra.
      assert (Hscale : alpha * (L y + L i) > 0) by nra.
      apply Rmult_lt_compat_r with (r := alpha * (L y + L i)) in Hd; [| exact Hscale].
      unfold Rdiv in Hd at 1. rewrite Rmult_assoc, Rinv_l, Rmult_1_r in Hd by lra.
      apply Rmult_gt_reg_l with (r := alpha); [lra |].
      replace (alpha * ((1 - alpha) / alpha)) with (1 - alpha) by (field; lra). nra.
    Qed.

    (** Relaxed constants, which hold for the whole of the ball only: they pass or fail at its radius. *)
    Theorem theorem_3_5_relaxed (L : Class -> R) (eps : R) :
      0 < eps -> (forall i, 0 < L i) ->
      (forall x', distance x x' <= eps -> h x y - h x' y <= eps * L y) ->
      (forall x' i, distance x x' <= eps -> i <> y -> h x' i - h x i <= eps * L i) ->
      (forall i, i <> y -> eps < radius_3_5 L i) -> certified eps.
    Proof.
      intros Heps HL Hy Hi Hr. apply lemma_3_2_on_a_ball. intros x' i Hx' Hne.
      specialize (Hy x' Hx'). specialize (Hi x' i Hx' Hne). specialize (Hr i Hne).
      unfold radius_3_5 in Hr. pose proof (HL y) as Ly. pose proof (HL i) as Li.
      assert (Hscale : alpha * (L y + L i) > 0) by nra.
      apply Rmult_lt_compat_r with (r := alpha * (L y + L i)) in Hr; [| exact Hscale].
      unfold Rdiv in Hr at 1. rewrite Rmult_assoc, Rinv_l, Rmult_1_r in Hr by lra.
      apply Rmult_gt_reg_l with (r := alpha); [lra |].
      replace (alpha * ((1 - alpha) / alpha)) with (1 - alpha) by (field; lra). nra.
    Qed.
  End Ball.
End Mix.
