//! Commands and reports between the control plane and the cores: plain data, moved through bounded channels.
