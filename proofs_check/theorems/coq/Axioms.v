(** What is taken from elsewhere, each with its source. Nothing else is assumed but Coq's own real numbers. *)

From Coq Require Import Reals List.
Import ListNotations.
Open Scope R_scope.

(** ** Gaussian smoothing: Salman et al. 2019, Lemma 2; Levine et al. 2019, Theorem 1. *)

Parameter Phi : R -> R.
(** The standard normal distribution function is increasing. *)
Axiom Phi_increasing : forall a b, a < b -> Phi a < Phi b.

(** Points of the input space, their l2 distance, functions on it with values in [0, 1], and such a function smoothed
    by Gaussian noise of standard deviation sigma, whose value is Phi of `quantile`. *)
Parameter Point : Type.
Parameter distance : Point -> Point -> R.
Parameter Function01 : Type.
Parameter smoothed : R -> Function01 -> Point -> R.
Parameter quantile : R -> Function01 -> Point -> R.
Axiom quantile_of_smoothed : forall sigma f x, 0 < sigma -> smoothed sigma f x = Phi (quantile sigma f x).
Axiom quantile_is_lipschitz : forall sigma f x x', 0 < sigma ->
  Rabs (quantile sigma f x' - quantile sigma f x) <= distance x x' / sigma.

(** ** Floating point: Higham, Accuracy and Stability of Numerical Algorithms, 3.1; Jeannerod and Rump 2013. *)

Fixpoint dot (a b : list R) : R :=
  match a, b with s :: a', t :: b' => s * t + dot a' b' | _, _ => 0 end.

(** A dot product evaluated in floating point, in any order, with or without fused multiply-add; u is the unit roundoff,
    eta what may be lost to underflow in one operation. *)
Parameter fl_dot : list R -> list R -> R.
Parameters u eta : R.
Definition gamma (n : nat) : R := INR n * u / (1 - INR n * u).
Axiom fl_dot_error : forall a b, length a = length b -> INR (length a) * u < 1 ->
  Rabs (fl_dot a b - dot a b) <= gamma (length a) * dot (map Rabs a) (map Rabs b) + INR (length a) * eta.
