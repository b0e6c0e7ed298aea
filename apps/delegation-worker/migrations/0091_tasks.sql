-- Up Migration

-- A task as others see it. What was submitted is the payload of its work row (delegation_worker.runs, same id).
create table delegation_worker.tasks (
  tenant         text collate "C" not null,
  task_id        uuid not null,
  parent_task_id uuid,
  status         text not null,
  -- Rises by one with each update that is told.
  seq            int not null,
  -- Every task has one, so that none waits for ever.
  deadline_at    timestamptz not null,
  -- The value of its last task.updated: what a submission that comes again is answered with.
  last_update    jsonb not null,
  ended_at       timestamptz,
  primary key (tenant, task_id)
);
create index tasks_due on delegation_worker.tasks (deadline_at) where ended_at is null;
create index tasks_children on delegation_worker.tasks (tenant, parent_task_id)
  where parent_task_id is not null and ended_at is null;
create index tasks_ended on delegation_worker.tasks (ended_at) where ended_at is not null;

-- What a task has done and waits for. A step with an outcome is not run again.
create table delegation_worker.steps (
  tenant       text collate "C" not null,
  task_id      uuid not null,
  name         text collate "C" not null,
  -- run: code of a handler; turn, task, input: waits for the end of `ref`, or for input.
  kind         text not null,
  ref          uuid,
  outcome      jsonb,
  -- What came when it had one, or when the task had ended: kept for people, never applied.
  late_outcome jsonb,
  started_at   timestamptz not null default clock_timestamp(),
  finished_at  timestamptz,
  primary key (tenant, task_id, name)
);

-- Inputs that were taken, so that one that comes again is known.
create table delegation_worker.inputs (
  tenant   text collate "C" not null,
  task_id  uuid not null,
  input_id uuid not null,
  primary key (tenant, task_id, input_id)
);

select app.protect_queue_table('delegation_worker.tasks');
select app.protect_queue_table('delegation_worker.steps');
select app.protect_queue_table('delegation_worker.inputs');

-- The state machine's last line of defence: whatever the code believes, a status never goes backwards, one that has
-- ended stays, and no update is told twice under another number.
create function delegation_worker.go_forward() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if old.ended_at is not null or new.seq <> old.seq + 1
     or new.status = 'queued'
     or (new.status = 'input_required' and old.status <> 'running')
     or (new.status = 'completed' and old.status <> 'running')
     or (new.ended_at is not null) <> (new.status in ('completed', 'failed', 'cancelled', 'expired')) then
    raise exception 'task % cannot go from % (%) to % (%)', old.task_id, old.status, old.seq, new.status, new.seq
      using errcode = 'check_violation';
  end if;
  return new;
end $$;
create trigger go_forward before update on delegation_worker.tasks
  for each row execute function delegation_worker.go_forward();

-- Intake of submissions: [{tenant, task_id, parent_task_id, deadline_at, priority, update, row}, …], no task twice. One row
-- for each that is new; claimed ones run when the transaction has committed. `update` is the value of the first update:
-- queued; of what is claimed at once, running.
create function delegation_worker.take_tasks(
  p_tasks jsonb, p_owner uuid, p_slots int, p_lease_ms int, p_formats int[])
  returns table (claimed boolean, tenant text, key text, fence bigint, id uuid, format smallint, payload jsonb,
                 attempt int, retries int, enqueued_at timestamptz, traceparent text)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_task record;
  v_claims jsonb;
  v_claim record;
begin
  select coalesce(jsonb_object_agg(e.tenant || ' ' || e.id, to_jsonb(e)), '{}') into v_claims
  from delegation_worker.work_enqueue_and_claim(
    (select jsonb_agg(t.task -> 'row') from jsonb_array_elements(p_tasks) as t(task)),
    p_owner, p_slots, p_lease_ms, p_formats) e
  where e.claimed;
  for v_task in
    select t.* from jsonb_to_recordset(p_tasks) as t(
      tenant text, task_id uuid, parent_task_id uuid, deadline_at timestamptz, priority int, update jsonb, row jsonb)
    order by t.tenant collate "C", t.task_id
  loop
    select c.* into v_claim from jsonb_to_record(v_claims -> (v_task.tenant || ' ' || v_task.task_id)) as c(
      claimed boolean, tenant text, key text, fence bigint, id uuid, format smallint, payload jsonb,
      attempt int, retries int, enqueued_at timestamptz, traceparent text);
    -- The row of its work was entered in this transaction or long ago, and so was this one.
    insert into delegation_worker.tasks as t (tenant, task_id, parent_task_id, status, seq, deadline_at, last_update)
    values (v_task.tenant, v_task.task_id, v_task.parent_task_id,
      case when v_claim.claimed then 'running' else 'queued' end, 1, v_task.deadline_at,
      case when v_claim.claimed then v_task.update || '{"status": "running", "attempt": 1}' else v_task.update end)
    on conflict do nothing;
    continue when not found;
    claimed := v_claim.claimed is true;
    tenant := v_task.tenant;
    key := v_task.task_id;
    fence := v_claim.fence;
    id := v_task.task_id;
    format := v_claim.format;
    payload := v_claim.payload;
    attempt := v_claim.attempt;
    retries := v_claim.retries;
    enqueued_at := v_claim.enqueued_at;
    traceparent := v_claim.traceparent;
    -- Also where it was claimed: it may wait for a slot again when what it waits for has come. 5 is what lanes have.
    if v_task.priority <> 5 then
      perform delegation_worker.work_prioritize(
        array[v_task.tenant], array[v_task.task_id::text], array[v_task.priority]);
    end if;
    return next;
  end loop;
end $$;

-- The start of a run. A task that was queued and never ran is running from here on, and told so with the given update and
-- message (columns of outbox_put). Of any other: where it stands, its steps, its unfinished children; nothing is told.
-- SB001 when the lane is another's, as in all that a holder calls.
create function delegation_worker.begin_task(
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

-- What a holder writes, all of it or nothing: a step (entered, or given its outcome), an update, the end of the run ('park'
-- until one result has come, or 'done', 'failed', 'cancelled'), webhooks, messages. Answers with the columns of outbox_put.
create function delegation_worker.write_task(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid,
  p_step jsonb, p_update jsonb, p_end text, p_error text, p_webhooks jsonb,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  perform delegation_worker.work_hold(p_tenant, p_key, p_owner, p_fence);
  if p_end = 'park' then
    perform delegation_worker.work_park(p_tenant, p_key, p_owner, p_fence, p_id, 1);
  elsif p_end is not null then
    perform delegation_worker.work_finish(p_tenant, p_key, p_owner, p_fence, p_id, p_end, p_error);
  end if;
  if p_step is not null then
    insert into delegation_worker.steps as s (tenant, task_id, name, kind, ref, outcome, finished_at)
    select p_tenant, p_id, n.name, n.kind, n.ref, n.outcome, case when n.outcome is not null then clock_timestamp() end
    from jsonb_to_record(p_step) as n(name text, kind text, ref uuid, outcome jsonb)
    on conflict (tenant, task_id, name) do nothing;
  end if;
  if p_update is not null then
    perform delegation_worker.update_task(p_tenant, p_id, p_update, p_webhooks);
  end if;
  if cardinality(p_topics) > 0 then
    return query select * from messaging.outbox_put(
      p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values);
  end if;
end $$;

-- The next update of a task whose lane the caller has locked. Also for one that work_cancel has ended in this transaction
-- before it ran.
create function delegation_worker.update_task(p_tenant text, p_id uuid, p_update jsonb, p_webhooks jsonb) returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
begin
  -- A holder that does not know whether its last statement was committed says the same again.
  if exists (select from delegation_worker.tasks t
             where t.tenant = p_tenant and t.task_id = p_id and t.last_update = p_update) then
    return;
  end if;
  update delegation_worker.tasks t
  set status = p_update ->> 'status', seq = (p_update ->> 'seq')::int, last_update = p_update,
      ended_at = case when p_update ->> 'status' in ('completed', 'failed', 'cancelled', 'expired')
                      then clock_timestamp() end
  where t.tenant = p_tenant and t.task_id = p_id;
  if not found then
    raise exception 'task % has no row', p_id using errcode = 'no_data_found';
  end if;
  if p_webhooks is not null then
    perform delegation_webhooks.work_enqueue(p_webhooks);
  end if;
end $$;

-- Tasks as they stand, with what was submitted.
create function delegation_worker.find_tasks(p_tenants text[], p_ids uuid[])
  returns table (tenant text, task_id uuid, seq int, status text, last_update jsonb, payload jsonb, attempt int,
                 traceparent text)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select t.tenant::text, t.task_id, t.seq, t.status, t.last_update, r.payload, r.attempt, r.traceparent
  from unnest(p_tenants, p_ids) as n(tenant, id)
  join delegation_worker.tasks t on t.tenant = n.tenant and t.task_id = n.id
  join delegation_worker.runs r on r.tenant = n.tenant and r.id = n.id
$$;

-- Results of what tasks wait for: [{tenant, task_id, kind, ref, input_id, outcome}, …]. Each counts once and only for a step that
-- has no outcome, of a task that has not ended; the task then goes on, claimed in the same transaction while slots are free.
-- verdict: applied (after so many seconds), repeat, late (kept beside the step), unknown (nobody waits for it). Rows without
-- one are claims.
create function delegation_worker.store_outcomes(
  p_outcomes jsonb, p_owner uuid, p_slots int, p_lease_ms int, p_formats int[])
  returns table (verdict text, waited_seconds double precision, claimed boolean, tenant text, key text, fence bigint,
                 id uuid, format smallint, payload jsonb, attempt int, retries int, enqueued_at timestamptz, traceparent text)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_outcome record;
  v_step record;
  v_tenants text[] := '{}';
  v_keys text[] := '{}';
  v_ids uuid[] := '{}';
begin
  perform delegation_worker.work_lock(
    (select array_agg(o ->> 'tenant') from jsonb_array_elements(p_outcomes) o),
    (select array_agg(o ->> 'task_id') from jsonb_array_elements(p_outcomes) o));
  for v_outcome in
    select o.* from jsonb_array_elements(p_outcomes) with ordinality as e(row, ord)
    cross join lateral jsonb_to_record(e.row) as o(
      tenant text, task_id uuid, kind text, ref uuid, input_id uuid, outcome jsonb)
    order by o.tenant collate "C", o.task_id, e.ord
  loop
    tenant := v_outcome.tenant;
    id := v_outcome.task_id;
    verdict := 'unknown';
    waited_seconds := null;
    if v_outcome.kind = 'input' then
      insert into delegation_worker.inputs as i (tenant, task_id, input_id)
      select t.tenant, t.task_id, v_outcome.input_id from delegation_worker.tasks t
      where t.tenant = v_outcome.tenant and t.task_id = v_outcome.task_id
      on conflict do nothing;
      if not found then
        verdict := 'repeat';
        return next;
        continue;
      end if;
    end if;
    select s.name, s.outcome, s.started_at into v_step from delegation_worker.steps s
    where s.tenant = v_outcome.tenant and s.task_id = v_outcome.task_id and s.kind = v_outcome.kind
      and (s.ref = v_outcome.ref or (v_outcome.kind = 'input' and s.outcome is null))
    order by s.started_at limit 1;
    if v_step.name is not null then
      update delegation_worker.steps s
      set outcome = v_outcome.outcome, finished_at = clock_timestamp()
      where s.tenant = v_outcome.tenant and s.task_id = v_outcome.task_id and s.name = v_step.name and s.outcome is null
        and exists (select from delegation_worker.tasks t
          where t.tenant = v_outcome.tenant and t.task_id = v_outcome.task_id and t.ended_at is null);
      if found then
        verdict := 'applied';
        waited_seconds := extract(epoch from clock_timestamp() - v_step.started_at);
        v_tenants := v_tenants || v_outcome.tenant;
        v_keys := v_keys || v_outcome.task_id::text;
        v_ids := v_ids || v_outcome.task_id;
      elsif v_step.outcome = v_outcome.outcome then
        verdict := 'repeat';
      else
        verdict := 'late';
        update delegation_worker.steps s set late_outcome = coalesce(s.late_outcome, v_outcome.outcome)
        where s.tenant = v_outcome.tenant and s.task_id = v_outcome.task_id and s.name = v_step.name;
      end if;
    end if;
    return next;
  end loop;
  return query select null::text, null::double precision, r.* from delegation_worker.work_resume_and_claim(
    v_tenants, v_keys, v_ids, p_owner, p_slots, p_lease_ms, p_formats) r where r.claimed;
end $$;

-- Tasks past their deadline that nobody has been asked to end yet, the oldest first.
create function delegation_worker.due_tasks(p_limit int) returns table (tenant text, task_id uuid)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
as $$
  select t.tenant::text, t.task_id from delegation_worker.tasks t
  join delegation_worker.runs r on r.tenant = t.tenant and r.id = t.task_id
  where t.ended_at is null and t.deadline_at <= statement_timestamp() and r.cancel is null and r.finished_at is null
  order by t.deadline_at limit p_limit
$$;

-- Deletes up to p_limit tasks that ended longer than this ago, with their steps and inputs. Answers how many.
create function delegation_worker.prune_tasks(p_older_ms bigint, p_limit int) returns int
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenants text[];
  v_ids uuid[];
begin
  with old as (
    select t.tenant, t.task_id from delegation_worker.tasks t
    where t.ended_at is not null and t.ended_at < clock_timestamp() - make_interval(secs => p_older_ms / 1000.0)
    order by t.ended_at limit p_limit for update skip locked
  ), gone as (
    delete from delegation_worker.tasks t using old where t.tenant = old.tenant and t.task_id = old.task_id
    returning t.tenant, t.task_id
  )
  select array_agg(g.tenant::text), array_agg(g.task_id) into v_tenants, v_ids from gone g;
  delete from delegation_worker.steps s using unnest(v_tenants, v_ids) as g(tenant, task_id)
    where s.tenant = g.tenant and s.task_id = g.task_id;
  delete from delegation_worker.inputs i using unnest(v_tenants, v_ids) as g(tenant, task_id)
    where i.tenant = g.tenant and i.task_id = g.task_id;
  return coalesce(cardinality(v_ids), 0);
end $$;

-- How a webhook ended, in one transaction with the end of its work. SB001 when the lane is another's.
create function delegation_webhooks.finish_webhook(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_state text, p_error text,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
begin
  perform delegation_webhooks.work_finish(p_tenant, p_key, p_owner, p_fence, p_id, p_state, p_error);
  return query select * from messaging.outbox_put(
    p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values);
end $$;

-- Failed webhooks of a tenant are tried again, for as long as a new one: one of them, or all of a task, or all. Answers which.
create function delegation_webhooks.requeue_webhooks(p_tenant text, p_task uuid, p_id uuid) returns setof uuid
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
begin
  for v_id in
    select w.id from delegation_webhooks.webhooks w
    where w.tenant = p_tenant and w.state = 'failed' and (p_task is null or w.key = p_task::text)
      and (p_id is null or w.id = p_id)
    order by w.key, w.seq limit 1000
  loop
    if delegation_webhooks.work_requeue(p_tenant, v_id) then
      update delegation_webhooks.webhooks w set enqueued_at = clock_timestamp() where w.tenant = p_tenant and w.id = v_id;
      return next v_id;
    end if;
  end loop;
end $$;

select app.protect_queue_functions('delegation_worker', 'signalbox_delegation_worker');
select app.protect_queue_functions('delegation_webhooks', 'signalbox_delegation_worker');

-- Down Migration

drop function delegation_webhooks.requeue_webhooks, delegation_webhooks.finish_webhook;
drop function delegation_worker.prune_tasks, delegation_worker.due_tasks, delegation_worker.store_outcomes,
  delegation_worker.find_tasks, delegation_worker.write_task, delegation_worker.update_task,
  delegation_worker.begin_task, delegation_worker.take_tasks;
drop table delegation_worker.inputs, delegation_worker.steps, delegation_worker.tasks;
drop function delegation_worker.go_forward;
