//! Host functions: what each does, every status it answers, and what it makes of pointers that lead nowhere.

mod abort;
mod clear_route_cache;
mod close_stream;
mod continue_stream;
mod define_metric;
mod done;
mod get_buffer_bytes;
mod get_buffer_status;
mod get_configuration;
mod get_current_time;
mod get_header_map_pairs;
mod get_header_map_size;
mod get_header_map_value;
mod get_log_level;
mod get_property;
mod header_map_edits;
mod log;
mod metric_values;
mod missing;
mod send_local_response;
mod set_buffer_bytes;
mod set_effective_context;
mod set_header_map_pairs;
mod set_property;
mod set_tick_period;
mod unknown;
