import { asText, type Conversation, contentText, fieldList, isFields, type Message } from './conversation.ts';
import { tokensOf } from './rules.ts';
import type { Reply, StreamPiece, Wire } from './wire.ts';

/** Tool results travel in user messages, beside or instead of text. */
function toMessages(message: Readonly<Record<string, unknown>>): Message[] {
  const parts = fieldList(message.content);
  const text = contentText(message.content);
  if (message.role === 'assistant') {
    const calls = parts
      .filter(({ type }) => type === 'tool_use')
      .map((part) => ({ id: asText(part.id), name: asText(part.name) }));
    return [{ role: 'assistant', text, calls }];
  }
  const results = parts
    .filter(({ type }) => type === 'tool_result')
    .map(
      (part): Message => ({
        role: 'tool',
        callId: asText(part.tool_use_id),
        text: contentText(part.content),
      }),
    );
  return text === '' && results.length > 0 ? results : [...results, { role: 'user', text }];
}

function read(body: Readonly<Record<string, unknown>>): Conversation {
  const refusesTools = isFields(body.tool_choice) && body.tool_choice.type === 'none';
  return {
    system: contentText(body.system),
    messages: fieldList(body.messages).flatMap(toMessages),
    tools: refusesTools ? [] : fieldList(body.tools).map((tool) => asText(tool.name)),
    maxTokens: typeof body.max_tokens === 'number' ? body.max_tokens : undefined,
  };
}

function stopReason({ answer, cut }: Reply): string {
  if (cut) return 'max_tokens';
  return answer.calls.length > 0 ? 'tool_use' : 'end_turn';
}

type Block =
  | { readonly type: 'thinking'; readonly thinking: string; readonly signature: string }
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'tool_use'; readonly id: string; readonly name: string; readonly input: unknown };

function blocksOf({ answer, id }: Reply): Block[] {
  const blocks: Block[] = [];
  if (answer.thinking !== '')
    blocks.push({ type: 'thinking', thinking: answer.thinking, signature: 'stand-in' });
  if (answer.text !== '') blocks.push({ type: 'text', text: answer.text });
  answer.calls.forEach((call, index) => {
    blocks.push({ type: 'tool_use', id: `toolu_${id}_${index}`, name: call.name, input: call.arguments });
  });
  return blocks;
}

function message(reply: Reply, content: readonly Block[], ended: boolean): Record<string, unknown> {
  return {
    id: `msg_${reply.id}`,
    type: 'message',
    role: 'assistant',
    model: reply.model,
    content,
    stop_reason: ended ? stopReason(reply) : null,
    stop_sequence: null,
    usage: { input_tokens: reply.inputTokens, output_tokens: ended ? reply.outputTokens : 0 },
  };
}

const event = (type: string, fields: Record<string, unknown>, token = false): StreamPiece => ({
  bytes: `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`,
  token,
});

function deltasOf(block: Block): Record<string, unknown>[] {
  if (block.type === 'text') return tokensOf(block.text).map((text) => ({ type: 'text_delta', text }));
  if (block.type === 'thinking') {
    return [
      ...tokensOf(block.thinking).map((thinking) => ({ type: 'thinking_delta', thinking })),
      { type: 'signature_delta', signature: block.signature },
    ];
  }
  const json = JSON.stringify(block.input);
  const half = Math.ceil(json.length / 2);
  return [json.slice(0, half), json.slice(half)].map((part) => ({
    type: 'input_json_delta',
    partial_json: part,
  }));
}

/** A block as it begins in a stream: without what its deltas will add. */
function opening(block: Block): Record<string, unknown> {
  if (block.type === 'text') return { type: 'text', text: '' };
  if (block.type === 'thinking') return { type: 'thinking', thinking: '', signature: '' };
  return { ...block, input: {} };
}

function pieces(reply: Reply): StreamPiece[] {
  return [
    event('message_start', { message: message(reply, [], false) }),
    ...blocksOf(reply).flatMap((block, index) => [
      event('content_block_start', { index, content_block: opening(block) }),
      ...deltasOf(block).map((delta) => event('content_block_delta', { index, delta }, true)),
      event('content_block_stop', { index }),
    ]),
    event('message_delta', {
      delta: { stop_reason: stopReason(reply), stop_sequence: null },
      usage: { output_tokens: reply.outputTokens },
    }),
    event('message_stop', {}),
  ];
}

/** POST /v1/messages. */
export const anthropicWire: Wire = {
  read,
  whole: (reply) => message(reply, blocksOf(reply), true),
  pieces,
  malformedPiece: 'event: content_block_delta\ndata: {"type":"content_block_delta","delta":\n\n',
  failure: (status, text) => ({
    type: 'error',
    error: {
      type: status === 429 ? 'rate_limit_error' : status === 529 ? 'overloaded_error' : 'api_error',
      message: text,
    },
  }),
};
