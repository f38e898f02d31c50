"""Full finetuning: balanced minibatches, schedules, recipes, and the training loop."""
