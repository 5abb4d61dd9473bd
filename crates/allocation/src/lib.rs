//! Device names, the allocation language, and the planner.
