"""Runs one TFLite file on prepared tensors, with numpy and the runtime alone: what is executed inside of an emulator.

    python arm_child.py MODEL INPUTS.npy OUTPUTS.npy

INPUTS holds (n, ...) tensors of the model's input type; OUTPUTS gets as many of its output type. It prints one JSON
object: what it ran on. It must import nothing else of this project: the emulated system has none of it.
"""

from __future__ import annotations

import json
import platform
import sys

import numpy as np


def main() -> None:
    from ai_edge_litert.interpreter import Interpreter

    model, inputs, outputs = sys.argv[1:]
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    made = []
    for tensor in np.load(inputs):
        interpreter.set_tensor(source["index"], tensor[np.newaxis])
        interpreter.invoke()
        made.append(interpreter.get_tensor(result["index"])[0].copy())
    np.save(outputs, np.stack(made))
    print(json.dumps({"machine": platform.machine(), "python": platform.python_version()}))


if __name__ == "__main__":
    main()
