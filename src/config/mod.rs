//! Flags, environment and NodeGroup manifests, made into one validated Settings.
