import type { TaskTarget } from '@signalbox/contracts/delegation-tasks';
import type { ModelTool } from '@signalbox/model/model-port';
import type { ModelProfile } from '@signalbox/model/profiles';
import type { Claim } from '@signalbox/work/queue';
import type { HistoryTurn } from './history-window.ts';
import { delegateTargets, type MemorySettings, memorySettings } from './persona-settings.ts';
import type { ModelOutcome, ModelStep, ToolInput, ToolOutcomeStored, ToolStep } from './turn-journal.ts';

/** The payload of a turn's row: the posted message, and what its record's headers said. */
export interface TurnPayload {
  readonly session_id: string;
  readonly turn_id: string;
  readonly event_id: string;
  readonly persona_id: string;
  readonly message: string;
  readonly request_id?: string;
  /** Who is told of the turn's end: reply_to and correlation_id of the record. */
  readonly asked_by?: { readonly reply_to: string; readonly correlation_id?: string };
  /** The task that the turn carries out. */
  readonly delegation?: { readonly task_id: string; readonly depth: number };
}

/** When a step began and ended, by the database's clock, for the spans. */
export interface StepTimes {
  readonly attempt: number;
  readonly started_ms: number;
  readonly finished_ms: number | null;
}

/** What a run of a turn starts from. */
export interface OpenedTurn {
  /** Since the first claim. */
  readonly elapsedMs: number;
  /** Rows of others wait for this session's stream: they go first (delivery rule 19). */
  readonly foreignRows: boolean;
  /** The last row of this session's stream that waits for this process; it may not know of it. */
  readonly lastOwnRow: number | null;
  /** Undefined: no such persona any more. */
  readonly persona: Persona | undefined;
  readonly profiles: readonly ModelProfile[];
  readonly tools: readonly (ModelTool & { readonly timeoutMs: number })[];
  readonly history: readonly HistoryTurn[];
  /** The last one is the open model step. */
  readonly steps: readonly ((ModelStep | ToolStep) & StepTimes)[];
}

export interface Persona {
  readonly systemPrompt: string;
  readonly modelProfile: string;
  readonly limits: Readonly<Record<string, unknown>>;
  readonly memory: MemorySettings;
  readonly delegates: readonly TaskTarget[];
}

/** A turn that this process has claimed; `opened` when the claim came with the start of the run. */
export interface ClaimedTurn extends Claim {
  readonly opened: OpenedTurn;
}

export interface ClaimedColumns {
  readonly claimed: boolean;
  readonly tenant: string;
  readonly key: string;
  readonly fence: string;
  readonly id: string;
  readonly format: number;
  readonly payload: unknown;
  readonly attempt: number;
  readonly retries: number;
  readonly enqueued_at: Date;
  readonly traceparent: string | null;
  readonly opened: OpenedColumns;
}

export interface OpenedColumns {
  readonly elapsed_ms: number;
  readonly foreign: boolean;
  /** Missing as long as migration 0046 has not run. */
  readonly own?: number | null;
  readonly persona: {
    readonly system_prompt: string;
    readonly model_profile: string;
    readonly limits: Readonly<Record<string, unknown>>;
    /** These two are missing as long as migration 0047 has not run. */
    readonly memory?: unknown;
    readonly delegates?: unknown;
  } | null;
  readonly profiles: readonly ProfileColumns[];
  readonly tools: readonly (ModelTool & { readonly timeout_ms: number })[];
  readonly history: readonly HistoryTurn[];
  readonly steps: readonly (StepTimes & {
    readonly step: number;
    readonly kind: 'model' | 'tool';
    readonly operation_key: string;
    readonly input: ToolInput;
    readonly outcome: (ModelOutcome & ToolOutcomeStored) | null;
  })[];
}

interface ProfileColumns {
  readonly name: string;
  readonly provider: 'openai' | 'anthropic' | null;
  readonly model: string | null;
  readonly base_url: string | null;
  readonly api_key: string | null;
  readonly max_output_tokens: number;
  readonly fallback: string | null;
}

/** A claim as the functions of migration 0042 answer it. */
export function claimedTurn(row: ClaimedColumns): ClaimedTurn {
  return { ...claimOf(row), opened: openedTurn(row.opened) };
}

export function claimOf(row: Omit<ClaimedColumns, 'claimed' | 'opened'>): Claim {
  const { tenant, key, id, format, payload, attempt, retries } = row;
  return {
    fence: Number(row.fence),
    item: {
      tenant,
      key,
      id,
      format,
      payload,
      attempt,
      retries,
      enqueuedAt: row.enqueued_at,
      traceparent: row.traceparent ?? undefined,
    },
  };
}

/** The steps of a turn that is to be ended, and the time since its first one began. */
export interface EndedJournal {
  readonly steps: OpenedTurn['steps'];
  readonly elapsedMs: number;
  readonly foreignRows: boolean;
}

export function openedTurn(row: OpenedColumns): OpenedTurn {
  const { persona } = row;
  return {
    elapsedMs: row.elapsed_ms,
    foreignRows: row.foreign,
    lastOwnRow: row.own ?? null,
    persona:
      persona === null
        ? undefined
        : {
            systemPrompt: persona.system_prompt,
            modelProfile: persona.model_profile,
            limits: persona.limits,
            memory: memorySettings(persona.memory),
            delegates: delegateTargets(persona.delegates),
          },
    profiles: row.profiles.map(profileOf),
    tools: row.tools.map(({ name, description, parameters, timeout_ms }) => ({
      name,
      description,
      parameters,
      timeoutMs: timeout_ms,
    })),
    history: row.history,
    steps: stepsOf(row.steps),
  };
}

export function stepsOf(rows: OpenedColumns['steps']): OpenedTurn['steps'] {
  return rows.map(({ operation_key, ...step }) => ({ ...step, operationKey: operation_key }));
}

function profileOf(row: ProfileColumns): ModelProfile {
  return {
    name: row.name,
    maxOutputTokens: row.max_output_tokens,
    ...(row.provider === null ? {} : { provider: row.provider }),
    ...(row.model === null ? {} : { model: row.model }),
    ...(row.base_url === null ? {} : { baseUrl: row.base_url }),
    ...(row.api_key === null ? {} : { apiKey: row.api_key }),
    ...(row.fallback === null ? {} : { fallback: row.fallback }),
  };
}
