/** A tool as the model is told of it; `parameters` is the JSON Schema of its arguments. */
export interface ModelTool {
  readonly name: string;
  readonly description: string;
  readonly parameters: Readonly<Record<string, unknown>>;
}

/** A call as the model asked for it. `arguments` is the model's own text: JSON if the model kept its word. */
export interface ModelToolCall {
  readonly id: string;
  readonly name: string;
  readonly arguments: string;
}

export type ModelMessage =
  | { readonly role: 'user'; readonly text: string }
  | { readonly role: 'assistant'; readonly text: string; readonly toolCalls: readonly ModelToolCall[] }
  | { readonly role: 'tool'; readonly callId: string; readonly text: string; readonly failed: boolean };

export interface ModelRequest {
  readonly system: string;
  readonly messages: readonly ModelMessage[];
  readonly tools: readonly ModelTool[];
  /** The answer is cut there, with the end reason `length`. */
  readonly maxOutputTokens: number;
}

/**
 * What a model streams, in order: text and thinking as they come, each tool call once and whole, usage where the
 * endpoint tells it, and exactly one `end`, last. `served` comes first where several profiles could have answered.
 */
export type ModelEvent =
  | { readonly type: 'served'; readonly profile: string; readonly model: string }
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'thinking'; readonly text: string }
  | { readonly type: 'tool_call'; readonly id: string; readonly name: string; readonly arguments: string }
  | { readonly type: 'usage'; readonly inputTokens: number; readonly outputTokens: number }
  | { readonly type: 'end'; readonly reason: ModelEnd };

export type ModelEnd = 'stop' | 'tool_calls' | 'length' | 'content_filter';

/**
 * One language model. The stream either ends with its `end` event or throws a fault: MODEL_UNAVAILABLE (5xx, refused,
 * cut), MODEL_RATE_LIMITED (429, with retryAfterMs where told), MODEL_BAD_RESPONSE (not the protocol), MODEL_REFUSED
 * (the request itself), TIMEOUT. When `signal` aborts, or the reader leaves the loop, the connection is closed.
 */
export interface Model {
  stream(request: ModelRequest, signal: AbortSignal): AsyncIterable<ModelEvent>;
}
