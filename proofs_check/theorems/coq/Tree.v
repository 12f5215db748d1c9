(** Soundness of the tree checker (docs/maths.md 10; proofs_check/rules/margin/branching.py, _need_tree): the very loop,
    nodes read depth first, the path of sides as its only state. *)

From Coq Require Import Reals Lra Psatz List.
Import ListNotations.
Open Scope R_scope.

Section Tree.
  Variable Point : Type.
  Variable ball : Point -> Prop.
  Variable claim : Point -> Prop.

  (** One side of a split: sign (v - at) >= 0; the side with `first` is read first. *)
  Record side := { v : Point -> R; at_ : R; first : bool }.

  Definition holds (s : side) (p : Point) : Prop := if first s then v s p >= at_ s else v s p <= at_ s.
  Definition other (s : side) : side := {| v := v s; at_ := at_ s; first := negb (first s) |}.

  Lemma covers (s : side) (p : Point) : holds s p \/ holds (other s) p.
  Proof. unfold holds, other; simpl. destruct (first s); simpl; destruct (Rle_dec (v s p) (at_ s)); lra. Qed.

  Variable evidence : Type.
  Variable leaf_proven : list side -> evidence -> Prop.

  (** All that a leaf's check must give: the claim wherever all sides above it hold. *)
  Hypothesis leaf_sound : forall path e, leaf_proven path e ->
    forall p, ball p -> Forall (fun s => holds s p) path -> claim p.

  Inductive node := Split (s : side) | Leaf (e : evidence).

  (** While the deepest side is a second one, it is done; of the deepest first one the second is next. *)
  Fixpoint next (path : list side) : option (list side) :=
    match path with
    | [] => None
    | s :: above => if first s then Some (other s :: above) else next above
    end.

  (** The deepest side stands first in `path`. *)
  Inductive accepts : list side -> list node -> Prop :=
  | reads_split s path nodes : first s = true -> accepts (s :: path) nodes -> accepts path (Split s :: nodes)
  | reads_leaf e path path' nodes :
      leaf_proven path e -> next path = Some path' -> accepts path' nodes -> accepts path (Leaf e :: nodes)
  | reads_last e path : leaf_proven path e -> next path = None -> accepts path [Leaf e].

  (** The second sides that are still to be read. *)
  Fixpoint pending (path : list side) (p : Point) : Prop :=
    match path with
    | [] => False
    | s :: above =>
        (first s = true /\ holds (other s) p /\ Forall (fun t => holds t p) above) \/ pending above p
    end.

  Lemma next_keeps (path : list side) (p : Point) : pending path p ->
    match next path with
    | Some path' => Forall (fun s => holds s p) path' \/ pending path' p
    | None => False
    end.
  Proof.
    induction path as [| s above IH]; simpl; intros H; [exact H |]. destruct (first s) eqn:E.
    - destruct H as [[_ [Hs Ha]] | Hp]; [left; constructor; assumption | right; simpl; right; exact Hp].
    - destruct H as [[F _] | Hp]; [discriminate F | exact (IH Hp)].
  Qed.

  Theorem accepted_trees_prove (path : list side) (nodes : list node) : accepts path nodes ->
    forall p, ball p -> Forall (fun s => holds s p) path \/ pending path p -> claim p.
  Proof.
    induction 1 as [s path nodes F _ IH | e path path' nodes Hleaf Hnext _ IH | e path Hleaf Hnext];
      intros p Hb [Hall | Hp].
    - apply IH; [exact Hb |]. destruct (covers s p); [left; constructor | right; simpl; left]; auto.
    - apply IH; [exact Hb |]. right. simpl. right. exact Hp.
    - exact (leaf_sound _ _ Hleaf p Hb Hall).
    - apply IH; [exact Hb |]. pose proof (next_keeps path p Hp) as H. rewrite Hnext in H. exact H.
    - exact (leaf_sound _ _ Hleaf p Hb Hall).
    - pose proof (next_keeps path p Hp) as H. rewrite Hnext in H. contradiction.
  Qed.

  Corollary accepted_trees_prove_the_ball (nodes : list node) : accepts [] nodes -> forall p, ball p -> claim p.
  Proof. intros H p Hb. apply (accepted_trees_prove [] nodes H p Hb). left. constructor. Qed.

  (** In a leaf: what holds there may be added, with a weight >= 0, to what is bounded from above. *)
  Lemma multiplier (s : side) (p : Point) (f beta bound : R) : holds s p -> 0 <= beta ->
    f + beta * (if first s then v s p - at_ s else at_ s - v s p) <= bound -> f <= bound.
  Proof. unfold holds. destruct (first s); intros; nra. Qed.
End Tree.

(** ** The strongest rival: a tree need only speak of the points at which its rival is the strongest. *)

Lemma greatest {Class : Type} (h : Class -> R) (i : Class) (others : list Class) :
  exists k, In k (i :: others) /\ forall j, In j (i :: others) -> h j <= h k.
Proof.
  revert i. induction others as [| a rest IH]; intros i.
  - exists i. split; [now left |]. intros j [<- | []]. lra.
  - destruct (IH a) as [k [inside most]]. destruct (Rle_lt_dec (h i) (h k)) as [below | above].
    + exists k. split; [now right |]. intros j [<- | there]; [exact below | now apply most].
    + exists i. split; [now left |]. intros j [<- | there]; [lra |]. specialize (most j there). lra.
Qed.

Theorem strongest_rival {Class : Type} (h : Class -> R) (y : Class) (mu : R) (rivals : list Class) :
  (forall i, In i rivals -> (forall j, In j rivals -> h j <= h i) -> h y - h i > mu) ->
  forall j, In j rivals -> h y - h j > mu.
Proof.
  intros proven j inside. destruct rivals as [| i others]; [contradiction |].
  destruct (greatest h i others) as [k [there most]]. specialize (proven k there most). specialize (most j inside). lra.
Qed.
