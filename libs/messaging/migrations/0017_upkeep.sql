-- Up Migration

-- Ids of messages whose topic has forgotten them by now, whoever their consumer is: nobody asks for a single one, and
-- inbox_forget, which takes one away, was never called. Of several callers one at a time; the oldest first, by blocks.
create function messaging.inbox_prune(p_older_than interval, p_limit int) returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_gone bigint;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('messaging.inbox_prune', 0)) then
    return 0;
  end if;
  delete from messaging.inbox i where i.ctid = any (array(
    select o.ctid from messaging.inbox o where o.handled_at < clock_timestamp() - p_older_than limit p_limit for update));
  get diagnostics v_gone = row_count;
  return v_gone;
end $$;
drop function messaging.inbox_forget;

select app.protect_queue_functions('messaging', variadic '{}');
grant execute on function messaging.inbox_prune, messaging.dead_letter_prune to signalbox_job_worker;

-- Down Migration
revoke execute on function messaging.dead_letter_prune from signalbox_job_worker;
drop function messaging.inbox_prune;
create function messaging.inbox_forget(p_consumer text, p_older_than interval, p_limit int) returns bigint
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from messaging.inbox i where (i.tenant, i.consumer, i.event_id) in (
      select o.tenant, o.consumer, o.event_id from messaging.inbox o
      where o.consumer = p_consumer and o.handled_at < clock_timestamp() - p_older_than limit p_limit)
    returning 1)
  select count(*) from gone
$$;
select app.protect_queue_functions('messaging', variadic '{}');
grant execute on function messaging.inbox_forget
  to signalbox_gateway, signalbox_conversation_worker, signalbox_tool_executor, signalbox_outbox_sync,
     signalbox_memory_sync, signalbox_memory_replicator, signalbox_delegation_gateway, signalbox_delegation_worker,
     signalbox_job_worker;
