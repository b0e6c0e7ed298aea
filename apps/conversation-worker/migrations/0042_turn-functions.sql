-- Up Migration

-- The statements of a turn, each one round trip. They run with the service's own rights: queue tables are reached only
-- through the work_* and outbox_* functions, the rest under row level security, for which each sets app.tenant.

-- Everything that a run of a turn starts from, and the journal's next model step, entered before it is tried. Call it in
-- a transaction that holds the lane.
--
-- The operation key of a model step is a hash over the turn, the step, and what the call depends on: the message, the
-- place where the history window begins (fixed with the first step, so that every attempt sees the same window) and the
-- keys of all steps before it.
create function conversation_worker.open_turn(
  p_owner uuid, p_tenant text, p_key text, p_id uuid, p_payload jsonb, p_attempt int, p_history_tokens int)
  returns jsonb
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_session uuid := (p_payload ->> 'session_id')::uuid;
  v_persona conversation_worker.personas;
  v_last conversation_worker.steps;
  v_from bigint;
  v_started timestamptz;
  v_profiles jsonb;
  v_tools jsonb;
  v_history jsonb;
  v_steps jsonb;
begin
  perform set_config('app.tenant', p_tenant, true);
  select * into v_persona from conversation_worker.personas p
    where p.tenant = p_tenant and p.persona_id = p_payload ->> 'persona_id';
  select * into v_last from conversation_worker.steps s
    where s.tenant = p_tenant and s.turn_id = p_id order by s.step desc limit 1;
  if v_last.step is null then
    select min(w.seq) into v_from from (
      select h.seq, sum(h.tokens) over (order by h.seq desc) as total from (
        select r.seq, r.tokens from conversation_worker.history r
        where r.tenant = p_tenant and r.session_id = v_session order by r.seq desc limit 200) h) w
      where w.total <= coalesce((v_persona.limits ->> 'history_tokens')::bigint, p_history_tokens);
    insert into conversation_worker.steps (tenant, turn_id, step, kind, operation_key, input, attempt)
    values (p_tenant, p_id, 0, 'model',
      encode(sha256(convert_to(concat_ws(' ', p_id, 0, p_payload ->> 'event_id', v_from), 'UTF8')), 'hex'),
      jsonb_build_object('history_from', v_from), p_attempt);
    v_started := clock_timestamp();
  else
    if v_last.outcome is not null then
      perform conversation_worker.open_next_step(p_tenant, p_id, p_attempt);
    end if;
    select (s.input ->> 'history_from')::bigint, s.started_at into v_from, v_started from conversation_worker.steps s
      where s.tenant = p_tenant and s.turn_id = p_id and s.step = 0;
  end if;
  -- Small statements with kept plans: as subqueries of one they cost twice that.
  select jsonb_agg(to_jsonb(m) - 'tenant') into v_profiles from conversation_worker.model_profiles m
    where m.tenant = p_tenant;
  if v_persona.tools <> '{}' then
    select jsonb_agg(jsonb_build_object('name', t.name, 'description', t.description,
        'parameters', t.parameters, 'timeout_ms', t.timeout_ms) order by t.name) into v_tools
      from conversation_worker.tools t where t.tenant = p_tenant and t.name = any(v_persona.tools) and t.enabled;
  end if;
  if v_from is not null then
    select jsonb_agg(jsonb_build_object('seq', h.seq, 'messages', h.messages) order by h.seq) into v_history
      from conversation_worker.history h
      where h.tenant = p_tenant and h.session_id = v_session and h.seq >= v_from and h.turn_id <> p_id;
  end if;
  select jsonb_agg(jsonb_build_object('step', s.step, 'kind', s.kind, 'input', s.input,
      'operation_key', s.operation_key, 'outcome', s.outcome, 'attempt', s.attempt,
      'started_ms', extract(epoch from s.started_at) * 1000, 'finished_ms', extract(epoch from s.finished_at) * 1000)
      order by s.step) into v_steps
    from conversation_worker.steps s where s.tenant = p_tenant and s.turn_id = p_id;
  return jsonb_build_object(
    'elapsed_ms', extract(epoch from clock_timestamp() - v_started) * 1000,
    'foreign', messaging.outbox_foreign(p_owner, 'conversation.outbound', p_key),
    'persona', case when v_persona.persona_id is null then null else jsonb_build_object(
      'system_prompt', v_persona.system_prompt, 'model_profile', v_persona.model_profile, 'limits', v_persona.limits) end,
    'profiles', coalesce(v_profiles, '[]'), 'tools', coalesce(v_tools, '[]'),
    'history', coalesce(v_history, '[]'), 'steps', coalesce(v_steps, '[]'));
end $$;

-- Enters the model step behind the last step.
create function conversation_worker.open_next_step(p_tenant text, p_id uuid, p_attempt int) returns void
  language sql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
  insert into conversation_worker.steps (tenant, turn_id, step, kind, operation_key, input, attempt)
  select p_tenant, p_id, max(s.step) + 1, 'model',
    encode(sha256(convert_to(concat_ws(' ', p_id, max(s.step) + 1, string_agg(s.operation_key, ' ' order by s.step)),
      'UTF8')), 'hex'),
    '{}', p_attempt
  from conversation_worker.steps s where s.tenant = p_tenant and s.turn_id = p_id
$$;

-- Intake of messages: their rows, and for up to p_slots sessions that were free the claim and the start of the run, all
-- in the intake's own transaction. One row for each new id, with `opened` where it is claimed.
create function conversation_worker.take_messages(
  p_rows jsonb, p_owner uuid, p_slots int, p_lease_ms int, p_formats int[], p_history_tokens int)
  returns table (claimed boolean, tenant text, key text, fence bigint, id uuid, format smallint, payload jsonb,
    attempt int, retries int, enqueued_at timestamptz, traceparent text, opened jsonb)
  language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  for claimed, tenant, key, fence, id, format, payload, attempt, retries, enqueued_at, traceparent in
    select * from conversation_worker.work_enqueue_and_claim(p_rows, p_owner, p_slots, p_lease_ms, p_formats)
  loop
    opened := case when claimed then conversation_worker.open_turn(
      p_owner, tenant, key, id, payload, attempt, p_history_tokens) end;
    return next;
  end loop;
end $$;

-- Of turns that wait: how many unfinished ones of their session come before each, and whether p_owner may write into the
-- session's stream now, because it holds the lane or nobody does. The caller holds the lanes' locks since it entered the
-- rows, so the answer stands until its commit.
create function conversation_worker.queue_places(p_owner uuid, p_tenants text[], p_ids uuid[])
  returns table (id uuid, ahead int, may_write boolean)
  language sql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
  select i.id,
    (select count(*)::int from conversation_worker.turns b
     where b.tenant = i.tenant and b.key = i.key and b.finished_at is null and b.seq < i.seq),
    l.owner is null or l.owner = p_owner
  from unnest(p_tenants, p_ids) as n(tenant, id)
  join conversation_worker.turns i on i.tenant = n.tenant and i.id = n.id
  join conversation_worker.lanes l on l.tenant = i.tenant and l.key = i.key
  where i.state = 'ready'
$$;

-- The same start for a turn that was claimed by itself (the next of a session, a retry, a takeover).
create function conversation_worker.open_held_turn(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_payload jsonb, p_attempt int, p_history_tokens int)
  returns jsonb
  language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform conversation_worker.work_hold(p_tenant, p_key, p_owner, p_fence);
  return conversation_worker.open_turn(p_owner, p_tenant, p_key, p_id, p_payload, p_attempt, p_history_tokens);
end $$;

-- Outcomes of tools: [{tenant, key, turn_id, step, call_id, event_id, outcome}]. Answers for each, in order, what became
-- of it: 'applied', 'late' (the step had its outcome), 'repeated' (this very event), 'unknown' (no such call).
create function conversation_worker.store_tool_outcomes(p_rows jsonb)
  returns table (ord int, fate text, attempt int)
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_row record;
  v_step conversation_worker.steps;
begin
  for v_row in
    select e.ord, r.* from jsonb_array_elements(p_rows) with ordinality as e(row, ord)
    cross join lateral jsonb_to_record(e.row) as r(
      tenant text, key text, turn_id uuid, step int, call_id text, event_id uuid, outcome jsonb)
    order by r.tenant collate "C", r.key collate "C", e.ord
  loop
    perform set_config('app.tenant', v_row.tenant, true);
    select * into v_step from conversation_worker.steps s
      where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step
        and s.kind = 'tool' and s.operation_key = v_row.call_id for update;
    ord := v_row.ord;
    attempt := v_step.attempt;
    if v_step.step is null then
      fate := 'unknown';
    elsif v_step.outcome is null then
      fate := 'applied';
      update conversation_worker.steps s
        set outcome = v_row.outcome, outcome_event = v_row.event_id, wait_until = null, finished_at = clock_timestamp()
        where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step;
    elsif v_step.outcome_event is not distinct from v_row.event_id then
      fate := 'repeated';
    else
      fate := 'late';
      update conversation_worker.steps s set late_outcome = v_row.outcome
        where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step;
    end if;
    return next;
  end loop;
end $$;

-- Counts the applied outcomes down, and claims and starts up to p_slots of the turns that can go on.
create function conversation_worker.resume_turns(
  p_tenants text[], p_keys text[], p_ids uuid[],
  p_owner uuid, p_slots int, p_lease_ms int, p_formats int[], p_history_tokens int)
  returns table (claimed boolean, tenant text, key text, fence bigint, id uuid, format smallint, payload jsonb,
    attempt int, retries int, enqueued_at timestamptz, traceparent text, opened jsonb)
  language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  for claimed, tenant, key, fence, id, format, payload, attempt, retries, enqueued_at, traceparent in
    select * from conversation_worker.work_resume_and_claim(p_tenants, p_keys, p_ids, p_owner, p_slots, p_lease_ms, p_formats)
  loop
    opened := case when claimed then conversation_worker.open_turn(
      p_owner, tenant, key, id, payload, attempt, p_history_tokens) end;
    return next;
  end loop;
end $$;

-- The end of a round with tool calls, in one transaction: the model step's outcome, the tool steps with their operation
-- keys, the messages of the round, and the park until p_pending outcomes have come. With none pending (no call of the
-- round can be sent) the turn goes on at once, and its next step is entered instead.
create function conversation_worker.store_round(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_attempt int, p_step int, p_outcome jsonb,
  p_tool_steps jsonb, p_pending int, p_writer uuid, p_topics text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  -- Whichever it is, it takes the lane's lock first, or raises SB001.
  if p_pending > 0 then
    perform conversation_worker.work_park(p_tenant, p_key, p_owner, p_fence, p_id, p_pending);
  else
    perform conversation_worker.work_hold(p_tenant, p_key, p_owner, p_fence);
  end if;
  perform set_config('app.tenant', p_tenant, true);
  update conversation_worker.steps s set outcome = p_outcome, attempt = p_attempt, finished_at = clock_timestamp()
    where s.tenant = p_tenant and s.turn_id = p_id and s.step = p_step;
  insert into conversation_worker.steps (tenant, turn_id, step, kind, operation_key, input, outcome, attempt, wait_until,
    finished_at)
  select p_tenant, p_id, t.step, 'tool', t.operation_key, t.input, t.outcome, p_attempt,
    case when t.outcome is null then clock_timestamp() + make_interval(secs => t.wait_ms / 1000.0) end,
    case when t.outcome is not null then clock_timestamp() end
  from jsonb_to_recordset(p_tool_steps) as t(step int, operation_key text, input jsonb, outcome jsonb, wait_ms double precision);
  if p_pending = 0 then
    perform conversation_worker.open_next_step(p_tenant, p_id, p_attempt);
  end if;
  return query select o.ord, o.id, o.fast, o.prev_id from messaging.outbox_put(
    p_writer, p_tenant, p_topics, array_fill(p_key, array[cardinality(p_topics)]), p_event_ids, p_headers, p_values) o;
end $$;

-- The end of a turn, in one transaction: the last outcome, the history, the final event, the lane. p_history is null for
-- a turn that failed: the model is not shown what had no answer.
create function conversation_worker.finish_turn(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_attempt int, p_step int, p_outcome jsonb,
  p_session uuid, p_history jsonb, p_tokens int, p_state text, p_error text,
  p_writer uuid, p_event_id uuid, p_headers jsonb, p_value bytea)
  returns table (id bigint, fast boolean, prev_id bigint)
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  -- First, because it takes the lane's lock, or raises SB001. The lane is free for others at the commit only.
  perform conversation_worker.work_finish(p_tenant, p_key, p_owner, p_fence, p_id, p_state, p_error);
  perform set_config('app.tenant', p_tenant, true);
  if p_outcome is not null then
    update conversation_worker.steps s set outcome = p_outcome, attempt = p_attempt, finished_at = clock_timestamp()
      where s.tenant = p_tenant and s.turn_id = p_id and s.step = p_step;
  end if;
  if p_history is not null then
    insert into conversation_worker.history (tenant, session_id, turn_id, messages, tokens)
    values (p_tenant, p_session, p_id, p_history, p_tokens);
  end if;
  return query select o.id, o.fast, o.prev_id from messaging.outbox_put(
    p_writer, p_tenant, array['conversation.outbound'], array[p_key], array[p_event_id], p_headers, array[p_value]) o;
end $$;

-- Tool steps whose wait is over: the net for requests and answers that got lost.
create function conversation_worker.expired_waits(p_limit int)
  returns table (tenant text, key text, turn_id uuid, session_id uuid, request_id text, traceparent text, step int,
    call_id text, tool text, waited_ms double precision)
  language sql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
  select s.tenant, i.key::text, s.turn_id, (i.payload ->> 'session_id')::uuid, i.payload ->> 'request_id', i.traceparent,
    s.step, s.operation_key, s.input ->> 'tool',
    extract(epoch from clock_timestamp() - s.started_at)::double precision * 1000
  from conversation_worker.steps s
  join conversation_worker.turns i on i.tenant = s.tenant and i.id = s.turn_id
  where s.wait_until < clock_timestamp() order by s.wait_until limit p_limit
$$;

-- Deletes up to p_limit steps older than p_older_ms; the turns' rows go by work_prune.
create function conversation_worker.prune_steps(p_older_ms bigint, p_limit int) returns int
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with old as (
    select s.tenant, s.turn_id, s.step from conversation_worker.steps s
    where s.started_at < clock_timestamp() - make_interval(secs => p_older_ms / 1000.0) limit p_limit
  ), gone as (
    delete from conversation_worker.steps s using old o
    where s.tenant = o.tenant and s.turn_id = o.turn_id and s.step = o.step returning 1)
  select count(*)::int from gone
$$;

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'conversation_worker'::regnamespace and not p.prosecdef and p.proname in (
      'open_turn', 'open_next_step', 'take_messages', 'open_held_turn', 'store_tool_outcomes', 'resume_turns',
      'store_round', 'finish_turn')
  loop
    execute format('revoke execute on function %s from public', v_function);
    execute format('grant execute on function %s to signalbox_conversation_worker', v_function);
  end loop;
end $$;
select app.protect_queue_functions('conversation_worker', 'signalbox_conversation_worker');

-- Down Migration
drop function conversation_worker.prune_steps, conversation_worker.expired_waits, conversation_worker.queue_places,
  conversation_worker.finish_turn,
  conversation_worker.store_round, conversation_worker.resume_turns, conversation_worker.store_tool_outcomes,
  conversation_worker.open_held_turn, conversation_worker.take_messages, conversation_worker.open_next_step,
  conversation_worker.open_turn;
