import { describeMember } from '../test/conformance/member-suite.ts';
import { kafkajsBus } from './kafkajs-bus.ts';

describeMember('kafkajs', kafkajsBus);
