import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { ConnectionError } from 'fastify';
import { problemOf, problemType } from './problem.ts';
import { securityHeaders } from './security-headers.ts';

/**
 * Answers bytes that never became a request (no HTTP, too many header bytes, too slow) with the same problem reply and
 * headers as everything else, and closes the connection: where the next request would begin is unknown.
 */
export function socketProblem(error: ConnectionError, socket: Socket, log: Logger): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, message] = reading(error.code);
  const requestId = newId();
  const failure = fault('MALFORMED_REQUEST', message, { cause: error });
  const problem = problemOf(failure, { path: '', requestId, traceId: undefined }, status);
  const body = JSON.stringify(problem);
  const headers: Record<string, string> = {
    ...securityHeaders,
    'content-type': problemType,
    'content-length': String(Buffer.byteLength(body)),
    'cache-control': 'no-store',
    'x-request-id': requestId,
    connection: 'close',
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  log.info('http.unreadable', {
    requestId,
    status,
    errorId: problem.error_id,
    reason: error.code,
    ip: socket.remoteAddress,
  });
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`);
}

function reading(code: string): [status: number, message: string] {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return [408, 'the request did not arrive in time'];
    case 'HPE_HEADER_OVERFLOW':
      return [431, 'the header fields are too large'];
    case 'HPE_CHUNK_EXTENSIONS_OVERFLOW':
      return [413, 'the chunk extensions are too large'];
    default:
      return [400, 'this is not HTTP'];
  }
}
