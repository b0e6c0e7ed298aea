-- Up Migration

-- The last row of the key that waits for this writer's own fast path; null when none does. The writer asks before it begins
-- to send direct records of the key: a row that it has not queued is one whose commit was not answered (delivery rule 19).
create function messaging.outbox_last_own(p_writer uuid, p_topic text, p_key text) returns bigint
  language sql stable security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
  select max(o.id) from messaging.outbox o
  where o.slot = (messaging.key_hash(p_topic, p_key) & 63)::smallint
    and o.key_hash = messaging.key_hash(p_topic, p_key) and o.topic = p_topic and o.key = p_key
    and o.writer = p_writer
$$;

select app.protect_queue_functions('messaging', variadic '{}');
grant execute on function messaging.outbox_last_own
  to signalbox_gateway, signalbox_conversation_worker, signalbox_tool_executor, signalbox_outbox_sync;

-- Down Migration
drop function messaging.outbox_last_own;
