"""The recurrent network: cells, features, training by TBPTT, solved readouts, and the forecasts of a checkpoint.

May import `core.series`, `core.checkpoint_ids` and `errors`; the only place in `core` for torch.
"""
