import Anthropic from '@anthropic-ai/sdk';
import type {
  ContentBlockParam,
  MessageCreateParamsStreaming,
  MessageParam,
  RawMessageStreamEvent,
} from '@anthropic-ai/sdk/resources/messages';
import type { BoundedFetch } from '@signalbox/http-client/bounded-fetch';
import { modelFault, streamFailure } from './model-faults.ts';
import type { Model, ModelEnd, ModelEvent, ModelMessage, ModelRequest, ModelToolCall } from './model-port.ts';

export interface AnthropicModelOptions {
  /** The API's root, without the version: `https://api.anthropic.com`. */
  readonly baseUrl: string;
  readonly apiKey: string;
  readonly model: string;
  /** Until the first byte of the answer, waiting for a free connection included. */
  readonly timeoutMs: number;
  readonly http: BoundedFetch;
}

/** A model behind Anthropic's messages endpoint. No retry in here: that is resilient-model's. */
export function createAnthropicModel(options: AnthropicModelOptions): Model {
  const client = new Anthropic({
    baseURL: options.baseUrl,
    apiKey: options.apiKey === '' ? 'none' : options.apiKey,
    authToken: null,
    timeout: options.timeoutMs,
    maxRetries: 0,
    logLevel: 'off',
    openTelemetry: false,
    fetch: options.http.fetch,
  });
  return {
    async *stream(request, signal) {
      signal.throwIfAborted();
      try {
        yield* readEvents(await client.messages.create(requestBody(request, options.model), { signal }));
      } catch (error) {
        signal.throwIfAborted();
        throw failureOf(error);
      }
    },
  };
}

async function* readEvents(events: AsyncIterable<RawMessageStreamEvent>): AsyncGenerator<ModelEvent> {
  // Blocks come one after the other, so at most one call is open.
  let open: { id: string; name: string; arguments: string } | undefined;
  const calls: ModelToolCall[] = [];
  let inputTokens = 0;
  let outputTokens = 0;
  let stopReason: string | undefined;
  let stopped = false;
  for await (const event of events) {
    switch (event.type) {
      case 'message_start':
        inputTokens = event.message.usage.input_tokens;
        break;
      case 'content_block_start':
        if (event.content_block.type === 'tool_use') {
          open = { id: event.content_block.id, name: event.content_block.name, arguments: '' };
        }
        break;
      case 'content_block_delta':
        if (event.delta.type === 'text_delta') yield { type: 'text', text: event.delta.text };
        else if (event.delta.type === 'thinking_delta') {
          yield { type: 'thinking', text: event.delta.thinking };
        } else if (event.delta.type === 'input_json_delta' && open !== undefined) {
          open.arguments += event.delta.partial_json;
        }
        break;
      case 'content_block_stop':
        if (open !== undefined) {
          calls.push(open.arguments === '' ? { ...open, arguments: '{}' } : open);
          open = undefined;
        }
        break;
      case 'message_delta':
        stopReason = event.delta.stop_reason ?? stopReason;
        outputTokens = event.usage.output_tokens;
        break;
      case 'message_stop':
        stopped = true;
        break;
    }
  }
  if (!stopped) throw modelFault({ kind: 'cut' });
  const reason = endOf(stopReason, calls.length > 0);
  if (reason === 'tool_calls') {
    for (const call of calls) yield { type: 'tool_call', ...call };
  }
  yield { type: 'usage', inputTokens, outputTokens };
  yield { type: 'end', reason };
}

function endOf(stopReason: string | undefined, called: boolean): ModelEnd {
  switch (stopReason) {
    case 'max_tokens':
    case 'model_context_window_exceeded':
      return 'length';
    case 'refusal':
      return 'content_filter';
    default:
      return called ? 'tool_calls' : 'stop';
  }
}

function requestBody(request: ModelRequest, model: string): MessageCreateParamsStreaming {
  return {
    model,
    stream: true,
    max_tokens: request.maxOutputTokens,
    ...(request.system === '' ? {} : { system: request.system }),
    messages: messageBodies(request.messages),
    ...(request.tools.length === 0
      ? {}
      : {
          tools: request.tools.map(({ name, description, parameters }) => ({
            name,
            description,
            input_schema: { ...parameters, type: 'object' as const },
          })),
        }),
  };
}

/** Turns must alternate here, and the results of one round stand together in one user message. */
function messageBodies(messages: readonly ModelMessage[]): MessageParam[] {
  const bodies: { role: 'user' | 'assistant'; content: ContentBlockParam[] }[] = [];
  for (const message of messages) {
    const role = message.role === 'assistant' ? 'assistant' : 'user';
    const content = blocksOf(message);
    const last = bodies.at(-1);
    if (last?.role === role) last.content.push(...content);
    else if (content.length > 0) bodies.push({ role, content });
  }
  return bodies;
}

function blocksOf(message: ModelMessage): ContentBlockParam[] {
  switch (message.role) {
    case 'user':
      return [{ type: 'text', text: message.text }];
    case 'tool':
      return [
        {
          type: 'tool_result',
          tool_use_id: message.callId,
          content: message.text,
          is_error: message.failed,
        },
      ];
    case 'assistant':
      // An empty text block is refused.
      return [
        ...(message.text === '' ? [] : [{ type: 'text' as const, text: message.text }]),
        ...message.toolCalls.map(({ id, name, arguments: text }) => ({
          type: 'tool_use' as const,
          id,
          name,
          input: objectOf(text),
        })),
      ];
  }
}

/** The endpoint wants an object back; a model that wrote something else is shown that it gave no arguments. */
function objectOf(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : {};
  } catch {
    return {};
  }
}

function failureOf(error: unknown): unknown {
  if (error instanceof Anthropic.APIConnectionTimeoutError)
    return modelFault({ kind: 'timeout', cause: error });
  if (error instanceof Anthropic.APIConnectionError) return modelFault({ kind: 'connection', cause: error });
  if (error instanceof Anthropic.APIError) {
    if (error.status === undefined)
      return modelFault({ kind: 'event', type: error.type ?? '', cause: error });
    return modelFault({ kind: 'status', status: error.status, headers: error.headers, cause: error });
  }
  return streamFailure(error);
}
