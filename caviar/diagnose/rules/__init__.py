"""The rules, by code: pure functions from records to findings."""

from caviar.diagnose.rules import data, fit, gradients, layers, machine, numbers, rates, search, start
from caviar.diagnose.rules.found import CrossRule, Found, Rule

RULES: dict[str, Rule] = {
    **numbers.RULES,
    **data.RULES,
    **start.RULES,
    **gradients.RULES,
    **rates.RULES,
    **fit.RULES,
    **layers.RULES,
    **machine.RULES,
}
"""Rules that read one member."""

CROSS_RULES: dict[str, CrossRule] = search.RULES
"""Rules that compare members."""

__all__ = ["CROSS_RULES", "RULES", "CrossRule", "Found", "Rule"]
