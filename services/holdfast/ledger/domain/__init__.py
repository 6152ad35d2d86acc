"""Pure decisions about runs, budgets and lanes: no clock, no database, the standard library only."""
