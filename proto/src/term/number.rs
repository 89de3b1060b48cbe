//! Every ReQL term's wire number (census §7).
