-- Up Migration

-- What personas remember and to whom they delegate, and what a turn needs for it: messages of several keys at the end of a
-- round and of the turn, updates of delegated tasks, who asked for a turn. What a process of the release before calls
-- keeps its form; its store_round, finish_turn, cancel_turn and expired_waits go with the release after this one.

alter table conversation_worker.personas
  -- {recall, namespace, namespaces, limit, write: [user, assistant, tool], ttl_days}; what is left out is as persona-settings.ts says.
  add column memory jsonb not null default '{}',
  -- Whom its turns may give tasks to: [{persona_id} or {handler}, …].
  add column delegates jsonb not null default '[]';

-- Of a delegated task: the last update that was shown. One that is not above it is a repeat.
alter table conversation_worker.steps add column update_seq int;

-- The upkeep of the history looks across tenants.
create index history_finished on conversation_worker.history using brin (finished_at);
create policy queue_upkeep on conversation_worker.history to signalbox_queue using (true) with check (true);
grant select, delete on conversation_worker.history to signalbox_queue;

-- As before, with the persona's `memory` and `delegates`.
create or replace function conversation_worker.open_turn(
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
    'own', messaging.outbox_last_own(p_owner, 'conversation.outbound', p_key),
    'persona', case when v_persona.persona_id is null then null else jsonb_build_object(
      'system_prompt', v_persona.system_prompt, 'model_profile', v_persona.model_profile, 'limits', v_persona.limits,
      'memory', v_persona.memory, 'delegates', v_persona.delegates) end,
    'profiles', coalesce(v_profiles, '[]'), 'tools', coalesce(v_tools, '[]'),
    'history', coalesce(v_history, '[]'), 'steps', coalesce(v_steps, '[]'));
end $$;

-- The end of a round with tool calls, in one transaction: the model step's outcome, the tool steps with their operation
-- keys, the messages of the round, and the park until p_pending outcomes have come. With none pending (no call of the
-- round can be sent) the turn goes on at once, and its next step is entered instead. No request is in the log before this
-- commits, so no answer to it can find the turn not parked yet.
create function conversation_worker.end_round(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_attempt int, p_step int, p_outcome jsonb,
  p_tool_steps jsonb, p_pending int,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
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
    p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values) o;
end $$;

-- The end of a turn, in one transaction: what its open model step came to, for a cancelled one the outcome
-- p_tool_outcome of its open tool steps, the history, the messages, the lane. p_history is null where nothing was said and
-- for a turn that failed: the model is not shown what had no answer.
create function conversation_worker.end_turn(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_attempt int, p_step int, p_outcome jsonb,
  p_tool_outcome jsonb, p_session uuid, p_history jsonb, p_tokens int, p_state text, p_error text,
  p_writer uuid, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
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
  if p_tool_outcome is not null then
    update conversation_worker.steps s
      set outcome = p_tool_outcome || jsonb_build_object(
            'duration_ms', round(extract(epoch from clock_timestamp() - s.started_at) * 1000)),
          wait_until = null, finished_at = clock_timestamp()
      where s.tenant = p_tenant and s.turn_id = p_id and s.kind = 'tool' and s.outcome is null;
  end if;
  if p_history is not null then
    insert into conversation_worker.history (tenant, session_id, turn_id, messages, tokens)
    values (p_tenant, p_session, p_id, p_history, p_tokens);
  end if;
  return query select o.ord, o.id, o.fast, o.prev_id from messaging.outbox_put(
    p_writer, p_tenant, p_topics, p_keys, p_event_ids, p_headers, p_values) o;
end $$;

-- Updates of delegated tasks: [{tenant, key, turn_id, step, call_id, event_id, seq, outcome}], outcome where the task has
-- ended. Answers for each, in order, what became of it:
--   shown     the task goes on
--   applied   it has ended, and that is the step's outcome
--   late      it has ended, and the step had its outcome (its wait was over, the turn was cancelled): kept apart
--   repeated  an update that is not above the last one, or one of a step with an outcome
--   unknown   no such step
create function conversation_worker.store_task_updates(p_rows jsonb)
  returns table (ord int, fate text, attempt int)
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_row record;
  v_step conversation_worker.steps;
begin
  perform conversation_worker.work_lock(array_agg(e.row ->> 'tenant'), array_agg(e.row ->> 'key'))
    from jsonb_array_elements(p_rows) as e(row);
  for v_row in
    select e.ord, r.* from jsonb_array_elements(p_rows) with ordinality as e(row, ord)
    cross join lateral jsonb_to_record(e.row) as r(
      tenant text, key text, turn_id uuid, step int, call_id text, event_id uuid, seq int, outcome jsonb)
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
    elsif v_row.seq <= coalesce(v_step.update_seq, 0) then
      fate := 'repeated';
    elsif v_step.outcome is null then
      fate := case when v_row.outcome is null then 'shown' else 'applied' end;
      update conversation_worker.steps s
        set update_seq = v_row.seq, outcome = v_row.outcome,
          outcome_event = case when v_row.outcome is not null then v_row.event_id end,
          wait_until = case when v_row.outcome is null then s.wait_until end,
          finished_at = case when v_row.outcome is not null then clock_timestamp() end
        where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step;
    elsif v_row.outcome is null then
      fate := 'repeated';
    else
      fate := 'late';
      update conversation_worker.steps s set update_seq = v_row.seq, late_outcome = v_row.outcome
        where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step;
    end if;
    return next;
  end loop;
end $$;

-- Tool steps whose wait is over: the net for requests and answers that got lost, and for tasks that take too long.
create function conversation_worker.waits_over(p_limit int)
  returns table (tenant text, key text, turn_id uuid, session_id uuid, request_id text, traceparent text, step int,
    call_id text, input jsonb, waited_ms double precision)
  language sql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
  select s.tenant, i.key::text, s.turn_id, (i.payload ->> 'session_id')::uuid, i.payload ->> 'request_id', i.traceparent,
    s.step, s.operation_key, s.input,
    extract(epoch from clock_timestamp() - s.started_at)::double precision * 1000
  from conversation_worker.steps s
  join conversation_worker.turns i on i.tenant = s.tenant and i.id = s.turn_id
  where s.wait_until < clock_timestamp() order by s.wait_until limit p_limit
$$;

-- Of turns that the caller has ended: what their messages said, for those whose end somebody is told of.
create function conversation_worker.asked_turns(p_tenants text[], p_ids uuid[]) returns table (id uuid, payload jsonb)
  language sql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
  select i.id, i.payload from unnest(p_tenants, p_ids) as n(tenant, id)
  join conversation_worker.turns i on i.tenant = n.tenant and i.id = n.id
  where i.payload ? 'asked_by'
$$;

-- Deletes up to p_limit turns of the history that are older than p_older_ms.
create function conversation_worker.prune_history(p_older_ms bigint, p_limit int) returns int
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with old as (
    select h.tenant, h.session_id, h.seq from conversation_worker.history h
    where h.finished_at < clock_timestamp() - make_interval(secs => p_older_ms / 1000.0) limit p_limit
  ), gone as (
    delete from conversation_worker.history h using old o
    where h.tenant = o.tenant and h.session_id = o.session_id and h.seq = o.seq returning 1)
  select count(*)::int from gone
$$;

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'conversation_worker'::regnamespace
      and p.proname in ('end_round', 'end_turn', 'store_task_updates')
  loop
    execute format('revoke execute on function %s from public', v_function);
    execute format('grant execute on function %s to signalbox_conversation_worker', v_function);
  end loop;
end $$;
select app.protect_queue_functions('conversation_worker', 'signalbox_conversation_worker');

-- Down Migration
drop function conversation_worker.prune_history, conversation_worker.asked_turns, conversation_worker.waits_over,
  conversation_worker.store_task_updates, conversation_worker.end_turn, conversation_worker.end_round;
drop policy queue_upkeep on conversation_worker.history;
revoke select, delete on conversation_worker.history from signalbox_queue;
drop index conversation_worker.history_finished;
create or replace function conversation_worker.open_turn(
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
    'own', messaging.outbox_last_own(p_owner, 'conversation.outbound', p_key),
    'persona', case when v_persona.persona_id is null then null else jsonb_build_object(
      'system_prompt', v_persona.system_prompt, 'model_profile', v_persona.model_profile, 'limits', v_persona.limits) end,
    'profiles', coalesce(v_profiles, '[]'), 'tools', coalesce(v_tools, '[]'),
    'history', coalesce(v_history, '[]'), 'steps', coalesce(v_steps, '[]'));
end $$;
alter table conversation_worker.steps drop column update_seq;
alter table conversation_worker.personas drop column memory, drop column delegates;
