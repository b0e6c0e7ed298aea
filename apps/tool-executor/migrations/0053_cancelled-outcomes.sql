-- Up Migration

-- As before, and a call that was cancelled ends as such.
create or replace function tool_executor.finish_call(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_outcome jsonb,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
begin
  perform tool_executor.work_finish(p_tenant, p_key, p_owner, p_fence, p_id,
    case when p_outcome ->> 'outcome' = 'cancelled' then 'cancelled' else 'done' end, null, p_outcome);
  return query select * from messaging.outbox_put(
    p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values);
end $$;

-- The outcome of a call that work_cancel has ended in this transaction before it ran; answers with what was asked. No
-- row when it has one already.
create function tool_executor.end_waiting_call(p_tenant text, p_id uuid, p_outcome jsonb)
  returns table (payload jsonb, traceparent text)
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  update tool_executor.calls c set result = p_outcome
  where c.tenant = p_tenant and c.id = p_id and c.state = 'cancelled' and c.result is null
  returning c.payload, c.traceparent
$$;

select app.protect_queue_functions('tool_executor', 'signalbox_tool_executor');

-- Down Migration

drop function tool_executor.end_waiting_call;
create or replace function tool_executor.finish_call(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_outcome jsonb,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
begin
  perform tool_executor.work_finish(p_tenant, p_key, p_owner, p_fence, p_id, 'done', null, p_outcome);
  return query select * from messaging.outbox_put(
    p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values);
end $$;
