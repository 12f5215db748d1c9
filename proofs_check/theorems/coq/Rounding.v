(** The backward bound: a form on the values of one layer becomes one on the layer before, and whatever the coefficients
    were rounded to is charged to the constant (proofs_check/kernel/bounds.py and linear_forms.py). *)

From Coq Require Import Reals Lra Psatz List.
From Certmix Require Import Axioms.
Import ListNotations.
Open Scope R_scope.

(** `bound c b v`: the form c . v + b. *)
Definition form (c : list R) (b : R) (v : list R) : R := dot c v + b.

Definition column (rows : list (list R)) (k : nat) : list R := map (fun row => nth k row 0) rows.

Lemma dot_error (n : nat) (c c' v e m : list R) :
  length c = n -> length c' = n -> length v = n -> length e = n -> length m = n ->
  (forall k, (k < n)%nat -> Rabs (nth k c' 0 - nth k c 0) <= nth k e 0) ->
  (forall k, (k < n)%nat -> Rabs (nth k v 0) <= nth k m 0) ->
  dot c v <= dot c' v + dot e m.
Proof.
  revert c c' v e m. induction n as [| n IH]; intros c c' v e m Hc Hc' Hv He Hm Herror Hsize.
  - destruct c, c', v, e, m; try discriminate. simpl. lra.
  - destruct c as [| c0 c], c' as [| c0' c'], v as [| v0 v], e as [| e0 e], m as [| m0 m]; try discriminate.
    simpl. assert (Hrest : dot c v <= dot c' v + dot e m).
    { apply IH; try (simpl in *; congruence).
      - intros k Hk. exact (Herror (S k) (proj1 (Nat.succ_lt_mono k n) Hk)).
      - intros k Hk. exact (Hsize (S k) (proj1 (Nat.succ_lt_mono k n) Hk)). }
    pose proof (Herror 0%nat (Nat.lt_0_succ n)) as H0. pose proof (Hsize 0%nat (Nat.lt_0_succ n)) as H1.
    simpl in H0, H1. pose proof (Rle_abs (- ((c0' - c0) * v0))) as H2. rewrite Rabs_Ropp, Rabs_mult in H2.
    pose proof (Rabs_pos (c0' - c0)). pose proof (Rabs_pos v0).
    assert (Rabs (c0' - c0) * Rabs v0 <= e0 * m0) by (apply Rmult_le_compat; assumption). nra.
Qed.

(** One step through an affine layer v = W w + bias. `adjoint` is c W exactly; `computed` what floats make of it, within
    `errors`; `sizes` bound the values w. Then every upper bound of the new form is one of the old. *)
Theorem affine_step (c computed adjoint errors sizes w v : list R) (b constant bound : R) :
  let n := length w in
  length computed = n -> length adjoint = n -> length errors = n -> length sizes = n ->
  dot c v = dot adjoint w + constant ->
  (forall k, (k < n)%nat -> Rabs (nth k computed 0 - nth k adjoint 0) <= nth k errors 0) ->
  (forall k, (k < n)%nat -> Rabs (nth k w 0) <= nth k sizes 0) ->
  form computed (b + constant + dot errors sizes) w <= bound ->
  form c b v <= bound.
Proof.
  intros n H1 H2 H3 H4 Hadjoint Herror Hsize Hbound. unfold form in *. rewrite Hadjoint.
  pose proof (dot_error n adjoint computed w errors sizes H2 H1 eq_refl H3 H4 Herror Hsize). lra.
Qed.

(** What floats make of one coefficient is within gamma_n of it: what `errors` may be. *)
Theorem error_of_a_coefficient (c col : list R) : length c = length col -> INR (length c) * u < 1 ->
  Rabs (fl_dot c col - dot c col) <=
    gamma (length c) * dot (map Rabs c) (map Rabs col) + INR (length c) * eta.
Proof. exact (fl_dot_error c col). Qed.

(** One step through ReLUs: a line above where the coefficient is positive, one below where it is negative. *)
Theorem relu_step (c v : R) (slope_above intercept slope_below : R) :
  Rmax v 0 <= slope_above * v + intercept -> slope_below * v <= Rmax v 0 ->
  c * Rmax v 0 <= (if Rle_dec 0 c then c * slope_above * v + c * intercept else c * slope_below * v).
Proof. intros Ha Hb. destruct (Rle_dec 0 c); nra. Qed.

Theorem line_below_relu (slope v : R) : 0 <= slope <= 1 -> slope * v <= Rmax v 0.
Proof. intros H. unfold Rmax. destruct (Rle_dec v 0); nra. Qed.

Theorem chord_above_relu (low high v : R) : low < 0 < high -> low <= v <= high ->
  Rmax v 0 <= high / (high - low) * v + - (high / (high - low) * low).
Proof.
  intros [Hl Hh] [H1 H2]. set (s := high / (high - low)).
  assert (Hs : s * (high - low) = high) by (unfold s; field; lra).
  assert (0 < s) by (unfold s; apply Rdiv_lt_0_compat; lra).
  unfold Rmax. destruct (Rle_dec v 0); nra.
Qed.

(** Once the form stands on the input it is bounded on the ball by a dual norm of its coefficients times the radius. *)
Definition sum (a : list R) : R := fold_right Rplus 0 a.

Theorem concretized_Linf (r : R) (c delta : list R) : length c = length delta ->
  Forall (fun t => Rabs t <= r) delta -> dot c delta <= r * sum (map Rabs c).
Proof.
  revert delta. induction c as [| c0 c IH]; intros [| d0 delta] Hlength Hball; try discriminate; simpl; [lra |].
  inversion Hball as [| ? ? H0 Hrest]; subst. specialize (IH delta (eq_add_S _ _ Hlength) Hrest). unfold sum in IH.
  pose proof (Rle_abs (c0 * d0)) as H1. rewrite Rabs_mult in H1.
  pose proof (Rmult_le_compat_l _ _ _ (Rabs_pos c0) H0). unfold sum in *. nra.
Qed.

Theorem concretized_L1 (m : R) (c delta : list R) : length c = length delta ->
  Forall (fun t => Rabs t <= m) c -> dot c delta <= m * sum (map Rabs delta).
Proof.
  revert delta. induction c as [| c0 c IH]; intros [| d0 delta] Hlength Hsize; try discriminate; simpl; [lra |].
  inversion Hsize as [| ? ? H0 Hrest]; subst. specialize (IH delta (eq_add_S _ _ Hlength) Hrest). unfold sum in IH.
  pose proof (Rle_abs (c0 * d0)) as H1. rewrite Rabs_mult in H1.
  pose proof (Rmult_le_compat_r _ _ _ (Rabs_pos d0) H0). unfold sum in *. nra.
Qed.

Theorem concretized_L2 (c delta : list R) : length c = length delta ->
  dot c delta * dot c delta <= dot c c * dot delta delta.
Proof.
  assert (Hpositive : forall a, 0 <= dot a a).
  { induction a as [| a0 a IH]; simpl; [lra | nra]. }
  revert delta. induction c as [| c0 c IH]; intros [| d0 delta] Hlength; try discriminate; simpl; [lra |].
  specialize (IH delta (eq_add_S _ _ Hlength)). pose proof (Hpositive c) as HA. pose proof (Hpositive delta) as HB.
  set (A := dot c c) in *. set (B := dot delta delta) in *. set (C := dot c delta) in *.
  enough (2 * (c0 * d0) * C <= c0 * c0 * B + d0 * d0 * A) by nra.
  assert (Hm : Rabs C <= sqrt (A * B)).
  { rewrite <- sqrt_Rsqr_abs. apply sqrt_le_1_alt. unfold Rsqr. exact IH. }
  rewrite sqrt_mult in Hm by assumption.
  pose proof (sqrt_sqrt A HA) as SA. pose proof (sqrt_sqrt B HB) as SB.
  pose proof (Rle_abs (c0 * d0 * C)) as H1. rewrite !Rabs_mult in H1.
  pose proof (Rle_0_sqr (Rabs c0 * sqrt B - Rabs d0 * sqrt A)) as Hsquare. unfold Rsqr in Hsquare.
  assert (Hc : Rabs c0 * Rabs c0 = c0 * c0) by (rewrite <- Rabs_mult; apply Rabs_right; nra).
  assert (Hd : Rabs d0 * Rabs d0 = d0 * d0) by (rewrite <- Rabs_mult; apply Rabs_right; nra).
  assert (H2 : Rabs c0 * Rabs d0 * Rabs C <= Rabs c0 * Rabs d0 * (sqrt A * sqrt B)).
  { apply Rmult_le_compat_l; [| exact Hm]. pose proof (Rabs_pos c0). pose proof (Rabs_pos d0). nra. }
  assert (Hexpand : (Rabs c0 * sqrt B - Rabs d0 * sqrt A) * (Rabs c0 * sqrt B - Rabs d0 * sqrt A) =
    (Rabs c0 * Rabs c0) * (sqrt B * sqrt B) + (Rabs d0 * Rabs d0) * (sqrt A * sqrt A)
    - 2 * (Rabs c0 * Rabs d0 * (sqrt A * sqrt B))) by ring.
  rewrite Hc, Hd, SA, SB in Hexpand. rewrite Hexpand in Hsquare. nra.
Qed.
