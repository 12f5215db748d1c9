(** The constant of a margin (docs/maths.md 4, (4.1)), and 2 artanh m along a path (docs/maths.md 4a). *)

From Coq Require Import Reals Lra Psatz.
From Coquelicot Require Import Coquelicot.
Open Scope R_scope.

(** (4.1): s bounds the sum of the sizes of the margin's derivatives by the logit differences. *)
Theorem derivative_of_margin (hy hi : R) :
  0 <= hy -> 0 <= hi -> hy + hi <= 1 ->
  let m := hy - hi in
  let s := hi * (1 + m) + Rabs m * (1 - hy - hi) in
  (m >= - / 3 -> s <= (1 - m * m) / 2) /\ s <= / 2.
Proof.
  intros Hy Hi Hsum m s. unfold s. set (q := hy + hi).
  assert (H1 : 0 <= 1 - q) by (unfold q; lra). assert (H2 : 0 <= 1 - m) by (unfold m; lra).
  assert (H3 : 0 <= q + m) by (unfold q, m; lra). assert (H4 : hi = (q - m) / 2) by (unfold q, m; lra).
  replace (1 - hy - hi) with (1 - q) by (unfold q; lra). rewrite H4. clearbody q m.
  pose proof (Rle_0_sqr m) as Hsquare. pose proof (Rle_0_sqr (1 + 2 * m)) as Hsquare'. unfold Rsqr in *.
  pose proof (Rmult_le_pos _ _ H1 H2) as Hbelow.
  destruct (Rle_dec 0 m) as [Hpos | Hneg]; [rewrite Rabs_right by lra | rewrite Rabs_left by lra]; split.
  - intros _. lra.
  - lra.
  - intros Hm. assert (H5 : 0 <= 1 + 3 * m) by lra. pose proof (Rmult_le_pos _ _ H1 H5). lra.
  - destruct (Rle_dec 0 (1 + 3 * m)) as [H5 | H5].
    + pose proof (Rmult_le_pos _ _ H1 H5). lra.
    + assert (H6 : 0 <= - (1 + 3 * m)) by lra. pose proof (Rmult_le_pos _ _ H3 H6). lra.
Qed.

Definition twice_artanh (m : R) : R := ln ((1 + m) / (1 - m)).

Lemma derivative_of_twice_artanh (m : R -> R) (m' s : R) :
  is_derive m s m' -> -1 < m s < 1 -> is_derive (fun t => twice_artanh (m t)) s (2 * m' / (1 - m s * m s)).
Proof.
  intros Hd Hm. unfold twice_artanh.
  assert (Houter : is_derive (fun v => ln ((1 + v) / (1 - v))) (m s) (2 / (1 - m s * m s))).
  { auto_derive.
    - split; [lra | split; [| exact I]]. apply Rdiv_lt_0_compat; lra.
    - field. repeat split; nra. }
  replace (2 * m' / (1 - m s * m s)) with (scal m' (2 / (1 - m s * m s))).
  - exact (is_derive_comp (fun v => ln ((1 + v) / (1 - v))) m s _ _ Houter Hd).
  - unfold scal; simpl; unfold mult; simpl. field. nra.
Qed.

(** Along a path of length r on which the margin's derivative is at most L (1 - m^2) / 2, it changes by at most L r. *)
Theorem twice_artanh_is_lipschitz (m m' : R -> R) (L r : R) :
  0 < r ->
  (forall s, 0 <= s <= r -> is_derive m s (m' s)) ->
  (forall s, 0 <= s <= r -> -1 < m s < 1) ->
  (forall s, 0 <= s <= r -> Rabs (m' s) <= L * (1 - m s * m s) / 2) ->
  Rabs (twice_artanh (m r) - twice_artanh (m 0)) <= L * r.
Proof.
  intros Hr Hd Hm Hbound.
  destruct (MVT_gen (fun t => twice_artanh (m t)) 0 r (fun s => 2 * m' s / (1 - m s * m s))) as [c [Hc Heq]].
  - intros s Hs. rewrite Rmin_left, Rmax_right in Hs by lra.
    apply derivative_of_twice_artanh; [apply Hd | apply Hm]; lra.
  - intros s Hs. rewrite Rmin_left, Rmax_right in Hs by lra. apply continuity_pt_filterlim.
    apply (ex_derive_continuous (fun t => twice_artanh (m t))).
    exists (2 * m' s / (1 - m s * m s)). apply derivative_of_twice_artanh; [apply Hd | apply Hm]; lra.
  - rewrite Rmin_left, Rmax_right in Hc by lra. rewrite Heq. rewrite Rabs_mult, (Rabs_right (r - 0)) by lra.
    specialize (Hm c Hc). specialize (Hbound c Hc).
    assert (Hq : 0 < 1 - m c * m c) by nra.
    assert (Hsize : Rabs (2 * m' c / (1 - m c * m c)) <= L).
    { unfold Rdiv. rewrite Rabs_mult, Rabs_mult, (Rabs_right 2) by lra.
      rewrite (Rabs_right (/ (1 - m c * m c))) by (left; apply Rinv_0_lt_compat; exact Hq).
      apply Rmult_le_reg_r with (r := 1 - m c * m c); [exact Hq |].
      rewrite Rmult_assoc, Rinv_l by lra. lra. }
    nra.
Qed.
