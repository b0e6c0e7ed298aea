import { Type } from 'typebox';
import { CallId, DurationMs, Id, Instant, Name, Step, ToolName, ToolOutcome } from './fields.ts';

const call = { call_id: CallId, turn_id: Id, session_id: Id, step: Step, tool: ToolName };

export const ToolStarted = Type.Object({ ...call, started_at: Instant });
export const ToolProgress = Type.Object({ ...call, text: Type.String() });
/** The last word on a call. `output` is what the model is given, cut when `truncated`. */
export const ToolOutcomeReported = Type.Object({
  ...call,
  outcome: ToolOutcome,
  output: Type.String(),
  truncated: Type.Boolean(),
  duration_ms: DurationMs,
  error_code: Type.Optional(Name),
  message: Type.Optional(Type.String()),
});

export type ToolStarted = Type.Static<typeof ToolStarted>;
export type ToolProgress = Type.Static<typeof ToolProgress>;
export type ToolOutcomeReported = Type.Static<typeof ToolOutcomeReported>;
export type { ToolOutcome } from './fields.ts';

export const toolResultsSchema = 'tool.results.v1';
export const toolResultsEvents = {
  'tool.started': ToolStarted,
  'tool.progress': ToolProgress,
  'tool.outcome': ToolOutcomeReported,
} as const;
