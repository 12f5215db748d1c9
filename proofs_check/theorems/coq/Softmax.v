(** Margins of a softmax (docs/maths.md 3a and 3b). The classes are y, its rival i, and a list of others. *)

From Coq Require Import Reals Lra Psatz List.
Import ListNotations.
Open Scope R_scope.

Section Softmax.
  Variable Class : Type.
  Variable z : Class -> R.
  Variables (y i : Class) (others : list Class).

  Fixpoint total (f : Class -> R) (classes : list Class) : R :=
    match classes with [] => 0 | j :: rest => f j + total f rest end.

  Definition softmax (j : Class) : R := exp (z j) / total (fun k => exp (z k)) (y :: i :: others).
  Definition d (j : Class) : R := z j - z y.

  Lemma total_scaled (f : Class -> R) (c : R) (classes : list Class) :
    total (fun j => c * f j) classes = c * total f classes.
  Proof. induction classes as [| j rest IH]; simpl; [lra | rewrite IH; lra]. Qed.

  Lemma total_ext (f g : Class -> R) (classes : list Class) :
    (forall j, f j = g j) -> total f classes = total g classes.
  Proof. intros H. induction classes as [| j rest IH]; simpl; [reflexivity | rewrite H, IH; reflexivity]. Qed.

  Lemma total_le (f g : Class -> R) (classes : list Class) :
    (forall j, In j classes -> f j <= g j) -> total f classes <= total g classes.
  Proof.
    induction classes as [| j rest IH]; simpl; intros H; [lra |].
    assert (f j <= g j) by (apply H; auto). assert (total f rest <= total g rest) by (apply IH; auto). lra.
  Qed.

  Lemma total_of_exponentials (f : Class -> R) (classes : list Class) : 0 <= total (fun j => exp (f j)) classes.
  Proof. induction classes as [| j rest IH]; simpl; [lra | pose proof (exp_pos (f j)); lra]. Qed.

  Definition e (j : Class) : R := exp (d j).

  Lemma margin_of_softmax : softmax y - softmax i = (1 - e i) / (1 + e i + total e others).
  Proof.
    assert (Hz : forall j, exp (z j) = exp (z y) * e j).
    { intros j. unfold e, d. rewrite <- exp_plus. f_equal. lra. }
    pose proof (exp_pos (z y)) as Hy. pose proof (exp_pos (d i)) as Hi.
    pose proof (total_of_exponentials d others) as Ho. unfold softmax. simpl.
    rewrite (total_ext (fun k => exp (z k)) (fun k => exp (z y) * e k)) by exact Hz. rewrite total_scaled.
    rewrite (Hz i). unfold e in *. field. split; [| nra]. lra.
  Qed.

  (** 3a, the rival below: attained at d = u. *)
  Theorem box_form (u : Class -> R) :
    d i <= u i -> (forall j, In j others -> d j <= u j) -> u i <= 0 ->
    softmax y - softmax i >= (1 - exp (u i)) / (1 + exp (u i) + total (fun j => exp (u j)) others).
  Proof.
    intros Hi Ho Hu. rewrite margin_of_softmax.
    assert (mono : forall a b, a <= b -> exp a <= exp b).
    { intros a b [Hlt | ->]; [left; apply exp_increasing; exact Hlt | right; reflexivity]. }
    assert (H1 : e i <= exp (u i)) by (apply mono; exact Hi).
    assert (H2 : exp (u i) <= 1) by (rewrite <- exp_0; apply mono; exact Hu).
    assert (H3 : total e others <= total (fun j => exp (u j)) others).
    { apply total_le. intros j Hj. apply mono. apply Ho. exact Hj. }
    pose proof (total_of_exponentials d others : 0 <= total e others) as H4. pose proof (exp_pos (d i) : 0 < e i) as H5.
    apply Rle_ge. apply Rmult_le_compat; [lra | left; apply Rinv_0_lt_compat; lra | lra |].
    apply Rinv_le_contravar; lra.
  Qed.

  (** 3a, the rival perhaps above: the others at their least. *)
  Theorem box_form_rival_above (u : R) (l : Class -> R) :
    d i <= u -> (forall j, In j others -> l j <= d j) -> 0 <= u ->
    softmax y - softmax i >= (1 - exp u) / (1 + exp u + total (fun j => exp (l j)) others).
  Proof.
    intros Hi Ho Hu. rewrite margin_of_softmax.
    assert (mono : forall a b, a <= b -> exp a <= exp b).
    { intros a b [Hlt | ->]; [left; apply exp_increasing; exact Hlt | right; reflexivity]. }
    assert (H1 : e i <= exp u) by (apply mono; exact Hi).
    assert (H2 : 1 <= exp u) by (rewrite <- exp_0; apply mono; exact Hu).
    assert (H3 : total (fun j => exp (l j)) others <= total e others).
    { apply total_le. intros j Hj. apply mono. apply Ho. exact Hj. }
    pose proof (total_of_exponentials l others) as H4. pose proof (exp_pos (d i) : 0 < e i) as H5.
    set (S := 1 + e i + total e others) in *. set (M := 1 + exp u + total (fun j => exp (l j)) others) in *.
    assert (HS : 0 < S) by (unfold S; lra). assert (HM : 0 < M) by (unfold M; lra).
    apply Rle_ge. apply Rmult_le_reg_r with (r := S * M); [nra |].
    replace ((1 - exp u) / M * (S * M)) with ((1 - exp u) * S) by (field; lra).
    replace ((1 - e i) / S * (S * M)) with ((1 - e i) * M) by (field; lra). unfold S, M. nra.
  Qed.

  (** 3b: the margin exceeds mu exactly where the exponential form lies below its threshold. *)
  Theorem exponential_form (mu : R) :
    softmax y - softmax i > mu <-> (1 + mu) * e i + mu * total e others < 1 - mu.
  Proof.
    rewrite margin_of_softmax. pose proof (exp_pos (d i) : 0 < e i) as H5.
    pose proof (total_of_exponentials d others : 0 <= total e others) as H4.
    set (S := 1 + e i + total e others). assert (HS : 0 < S) by (unfold S; lra).
    split; intros H.
    - apply Rmult_gt_compat_l with (r := S) in H; [| lra].
      replace (S * ((1 - e i) / S)) with (1 - e i) in H by (field; lra). unfold S in H. nra.
    - apply Rmult_gt_reg_l with (r := S); [lra |].
      replace (S * ((1 - e i) / S)) with (1 - e i) by (field; lra). unfold S. nra.
  Qed.
End Softmax.
