from typing import Any

def l1_loss(
    prediction: Any, target: Any, weight: Any = None, route: str = "python",
    loss_weight: float = 1, **given: Any
) -> Any: ...
