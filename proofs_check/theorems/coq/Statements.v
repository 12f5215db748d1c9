(** All theorems, each with what it assumes: Coq's own axioms of the real numbers, and those of Axioms.v. *)

From Coq Require Import Reals.
From Certmix Require Import Axioms Margin Softmax Artanh Tree Rounding Smoothing.
Open Scope R_scope.

Check lemma_3_2.
Print Assumptions lemma_3_2.
Check lemma_3_2_of_logits.
Print Assumptions lemma_3_2_of_logits.
Check lemma_3_2_is_tight.
Print Assumptions lemma_3_2_is_tight.
Check lemma_3_2_on_a_ball.
Print Assumptions lemma_3_2_on_a_ball.
Check theorem_3_5.
Print Assumptions theorem_3_5.
Check theorem_3_5_relaxed.
Print Assumptions theorem_3_5_relaxed.
Check box_form.
Print Assumptions box_form.
Check box_form_rival_above.
Print Assumptions box_form_rival_above.
Check exponential_form.
Print Assumptions exponential_form.
Check derivative_of_margin.
Print Assumptions derivative_of_margin.
Check twice_artanh_is_lipschitz.
Print Assumptions twice_artanh_is_lipschitz.
Check accepted_trees_prove.
Print Assumptions accepted_trees_prove.
Check accepted_trees_prove_the_ball.
Print Assumptions accepted_trees_prove_the_ball.
Check strongest_rival.
Print Assumptions strongest_rival.
Check affine_step.
Print Assumptions affine_step.
Check error_of_a_coefficient.
Print Assumptions error_of_a_coefficient.
Check relu_step.
Print Assumptions relu_step.
Check line_below_relu.
Print Assumptions line_below_relu.
Check chord_above_relu.
Print Assumptions chord_above_relu.
Check concretized_Linf.
Print Assumptions concretized_Linf.
Check concretized_L1.
Print Assumptions concretized_L1.
Check concretized_L2.
Print Assumptions concretized_L2.
Check direct_margin_bound.
Print Assumptions direct_margin_bound.
