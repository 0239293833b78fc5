"""Networks, model bundles, prediction of logits, exports. `spec` and the checks of `bundle` do without torch."""
