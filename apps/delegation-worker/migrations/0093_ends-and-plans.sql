-- Up Migration

-- Claims the task for p_owner, to be ended, if its end was asked for and nobody holds it. The caller has locked the lane.
-- Without a slot: ending takes a moment, and must wait neither for tasks that run nor behind more urgent ones.
create function delegation_worker.claim_to_end(
  p_tenant text, p_id uuid, p_owner uuid, p_lease_ms int, p_formats int[])
  returns table (tenant text, key text, fence bigint, id uuid, format smallint, payload jsonb, attempt int, retries int,
    enqueued_at timestamptz, traceparent text, lost int, cancel jsonb)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  if exists (select from delegation_worker.lanes l
             where l.tenant = p_tenant and l.key = p_id::text and l.owner is null)
     and exists (select from delegation_worker.runs r
             where r.tenant = p_tenant and r.id = p_id and r.finished_at is null and r.cancel is not null) then
    return query
    select w.*, r.lost, r.cancel
    from delegation_worker.work_take(array[p_tenant], array[p_id::text], p_owner, p_lease_ms, p_formats) w
    join delegation_worker.runs r on r.tenant = w.tenant and r.id = w.id;
  end if;
end $$;

-- As in migration 0091, but for the children.
create or replace function delegation_worker.begin_task(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_update jsonb,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (seq int, status text, told_attempt int, steps jsonb, children uuid[],
                 put_id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_children uuid[];
begin
  perform delegation_worker.work_hold(p_tenant, p_key, p_owner, p_fence);
  if p_update is not null then
    update delegation_worker.tasks t set status = 'running', seq = 2, last_update = p_update
    where t.tenant = p_tenant and t.task_id = p_id and t.status = 'queued' and t.seq = 1;
    if found then
      return query select 2, 'running', 1, '[]'::jsonb, '{}'::uuid[], p.id, p.fast, p.prev_id
        from messaging.outbox_put(p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values) p;
      return;
    end if;
  end if;
  -- Planned each time: a plan kept from when the table was empty may look through all tasks of the tenant.
  execute 'select coalesce(array_agg(c.task_id order by c.task_id), ''{}'') from delegation_worker.tasks c
           where c.tenant = $1 and c.parent_task_id = $2 and c.ended_at is null'
    into v_children using p_tenant, p_id;
  return query
    select t.seq, t.status, (t.last_update ->> 'attempt')::int,
      coalesce((select jsonb_agg(jsonb_build_object('name', s.name, 'kind', s.kind, 'ref', s.ref, 'outcome', s.outcome)
                order by s.started_at, s.name)
        from delegation_worker.steps s where s.tenant = p_tenant and s.task_id = p_id), '[]'),
      v_children,
      null::bigint, null::boolean, null::bigint
    from delegation_worker.tasks t where t.tenant = p_tenant and t.task_id = p_id;
end $$;

-- Plans are made once and kept. Made while the tables are empty, which they are most of the time, they would read tables
-- from end to end: with 100 000 tasks that wait, 90 ms for each begin instead of 1.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'delegation_worker'::regnamespace
      and p.proname in ('take_tasks', 'begin_task', 'write_task', 'update_task', 'find_tasks', 'store_outcomes', 'due_tasks')
  loop
    execute format('alter function %s set enable_seqscan = off', v_function);
    execute format('alter function %s set enable_hashjoin = off', v_function);
    execute format('alter function %s set enable_mergejoin = off', v_function);
  end loop;
end $$;

select app.protect_queue_functions('delegation_worker', 'signalbox_delegation_worker');

-- Down Migration

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'delegation_worker'::regnamespace
      and p.proname in ('take_tasks', 'begin_task', 'write_task', 'update_task', 'find_tasks', 'store_outcomes', 'due_tasks')
  loop
    execute format('alter function %s reset enable_hashjoin', v_function);
    execute format('alter function %s reset enable_mergejoin', v_function);
    continue when v_function::text like '%due_tasks%';
    execute format('alter function %s reset enable_seqscan', v_function);
  end loop;
end $$;
drop function delegation_worker.claim_to_end;
create or replace function delegation_worker.begin_task(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_update jsonb,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (seq int, status text, told_attempt int, steps jsonb, children uuid[],
                 put_id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  perform delegation_worker.work_hold(p_tenant, p_key, p_owner, p_fence);
  if p_update is not null then
    update delegation_worker.tasks t set status = 'running', seq = 2, last_update = p_update
    where t.tenant = p_tenant and t.task_id = p_id and t.status = 'queued' and t.seq = 1;
    if found then
      return query select 2, 'running', 1, '[]'::jsonb, '{}'::uuid[], p.id, p.fast, p.prev_id
        from messaging.outbox_put(p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values) p;
      return;
    end if;
  end if;
  return query
    select t.seq, t.status, (t.last_update ->> 'attempt')::int,
      coalesce((select jsonb_agg(jsonb_build_object('name', s.name, 'kind', s.kind, 'ref', s.ref, 'outcome', s.outcome)
                order by s.started_at, s.name)
        from delegation_worker.steps s where s.tenant = p_tenant and s.task_id = p_id), '[]'),
      array(select c.task_id from delegation_worker.tasks c
        where c.tenant = p_tenant and c.parent_task_id = p_id and c.ended_at is null order by c.task_id),
      null::bigint, null::boolean, null::bigint
    from delegation_worker.tasks t where t.tenant = p_tenant and t.task_id = p_id;
end $$;
