//! Terms as bytes, for functions that travel to the cores that own the data.
