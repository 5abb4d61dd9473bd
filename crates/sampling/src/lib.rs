//! Noise, sigma schedules, samplers and guidance.
