"""A calculator for reverse Polish notation."""

from operator import add, mul, sub, truediv

OPERATORS = {"+": add, "-": sub, "*": mul, "/": truediv}


def evaluate(expression):
    """The value of an expression like "3 4 + 2 *"."""
    stack = []
    for token in expression.split():
        if token in OPERATORS:
            left, right = stack.pop(), stack.pop()
            stack.append(OPERATORS[token](left, right))
        else:
            stack.append(float(token))
    (result,) = stack
    return result
