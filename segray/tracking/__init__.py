"""Where the numbers and pictures of a training go besides its CSV files: TensorBoard, MLflow, wandb, SwanLab."""
